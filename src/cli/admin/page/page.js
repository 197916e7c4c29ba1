"use strict";
// Asks /status every second and draws it. Names and addresses come from configurations and from AWS: they are put in as
// text, never as markup. Rates are differences of totals, by the program's own clock.

const PERIOD_MS = 1000;      // between two questions
const PATIENCE_MS = 4000;    // for one answer
const HISTORY_MS = 120000;   // what the lines show
const GAP_MS = 3500;         // without an answer for longer, the line is broken
const LISTED = 12;           // connections that are listed, the busiest first
const FLOOR = 1000;          // bytes per second that fill a chart at least: a trickle is not a flood

const TONES = {
  ready: "good", dormant: "idle", waking: "warn", starting: "warn", reconnecting: "warn", stalled: "warn",
  stopping: "idle", stopped: "bad", ended: "bad",
};
const MEANINGS = {
  ready: "A session can carry a new connection now.",
  dormant: "No session is wanted: the next connection starts one.",
  waking: "A connection has asked for a session, which is being started.",
  starting: "The first session is being started.",
  reconnecting: "No session can carry anything at the moment; connections are held.",
  stopping: "It lets its connections end.",
  stopped: "It is over.",
};

const $ = (id) => document.getElementById(id);
const forwards = new Map();  // key: Forward
let program = null;          // started_at of the program that answered last
let lostAt = null;           // when it got out of reach

// --- words -------------------------------------------------------------------------------------------------------

function bytes(count) {
  if (count < 1000) return `${Math.round(count)} B`;
  let unit = -1;
  do { count /= 1000; unit += 1; } while (count >= 999.5 && unit < 5);
  return `${count < 9.95 ? count.toFixed(1) : Math.round(count)} ${"kMGTPE"[unit]}B`;
}

const rate = (perSecond) => `${bytes(perSecond)}/s`;

function duration(ms) {
  const seconds = Math.floor(ms / 1000);
  const two = (value) => String(value).padStart(2, "0");
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}:${two(seconds % 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)}:${two(Math.floor(seconds / 60) % 60)} h`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor(seconds / 3600) % 24} h`;
}

function roundTrip(ms) {
  if (ms === null) return "–";
  return ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`;
}

// --- the document ------------------------------------------------------------------------------------------------

// Only what has changed is touched, so that a selection stays and screen readers are not told the same again. Nor can a
// name turn the direction of what stands beside it.
function say(node, words) {
  const text = words.replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
  if (node.textContent !== text) node.textContent = text;
}

function set(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

function badge(node, text, meaning) {
  say(node, text);
  set(node, "title", meaning ?? "");
}

// [label, value, whether it is a bad sign]: numbers that are 0 are of no interest.
function facts(list, entries) {
  while (list.children.length > entries.length) list.lastElementChild.remove();
  while (list.children.length < entries.length) {
    const entry = document.createElement("div");
    entry.append(document.createElement("dt"), document.createElement("dd"));
    list.append(entry);
  }
  entries.forEach(([label, value, bad], index) => {
    const entry = list.children[index];
    say(entry.children[0], label);
    say(entry.children[1], String(value));
    entry.className = value === 0 ? "zero" : bad ? "bad" : "";
  });
}

// Each row is a list of cells { text, className, title, tone, label }.
function rows(table, list) {
  const body = table.tBodies[0];
  table.hidden = list.length === 0;
  while (body.rows.length > list.length) body.lastElementChild.remove();
  list.forEach(({ className, cells }, index) => {
    const row = body.rows[index] ?? body.insertRow();
    set(row, "class", className ?? "");
    set(row, "role", "row");  // whatever it is laid out as
    cells.forEach((cell, column) => {
      const node = row.cells[column] ?? row.insertCell();
      set(node, "class", cell.className ?? "");
      set(node, "title", cell.title ?? "");
      set(node, "role", "cell");
      set(node, "data-label", cell.label ?? "");
      let inner = node.firstElementChild;
      if (inner === null) {
        inner = document.createElement("bdi");
        node.append(inner);
      }
      set(inner, "class", cell.tone ? "dot" : "");
      set(inner, "data-tone", cell.tone ?? "");
      say(inner, cell.text);
    });
  });
}

function parts(root) {
  const found = {};
  for (const node of root.querySelectorAll("[data-of]")) found[node.dataset.of] = node;
  return found;
}

// --- one direction -----------------------------------------------------------------------------------------------

class Flow {
  constructor(figure, label) {
    figure.append($("flow").content.cloneNode(true));
    this.nodes = parts(figure);
    this.svg = figure.querySelector("svg");
    [this.area, this.line] = figure.querySelectorAll("path");
    this.label = label;
    say(this.nodes.label, label);
    this.samples = [];       // { at, value }; value null: a gap
  }

  add(at, value) {
    const last = this.samples.at(-1);
    if (last && at - last.at > GAP_MS) this.samples.push({ at: last.at + 1, value: null });
    this.samples.push({ at, value });
    while (this.samples.length > 1 && this.samples[1].at < at - HISTORY_MS) this.samples.shift();
  }

  gap(at) {
    this.samples.push({ at, value: null });
  }

  draw(now) {
    const known = this.samples.filter((sample) => sample.value !== null);
    const peak = known.reduce((most, sample) => Math.max(most, sample.value), 0);
    const current = this.samples.at(-1)?.value ?? 0;
    const x = (at) => (120 - (now - at) * 120 / HISTORY_MS).toFixed(2);
    const y = (value) => (38.5 - value / Math.max(peak, FLOOR) * 35).toFixed(2);
    let line = "", area = "", start = null, end = null;
    for (const { at, value } of this.samples) {
      if (value === null) {
        if (start !== null) area += `L${end} 40L${start} 40Z`;
        start = null;
        continue;
      }
      const point = `${x(at)} ${y(value)}`;
      line += `${start === null ? "M" : "L"}${point}`;
      area += `${start === null ? "M" : "L"}${point}`;
      start ??= x(at);
      end = x(at);
    }
    if (start !== null) area += `L${end} 40L${start} 40Z`;
    this.line.setAttribute("d", line);
    this.area.setAttribute("d", area);
    say(this.nodes.rate, rate(current));
    say(this.nodes.peak, peak > 0 ? `peak ${rate(peak)} in 2 min` : "nothing in 2 min");
    set(this.svg, "aria-label", `${this.label}, the last two minutes: now ${rate(current)}, at most ${rate(peak)}`);
  }
}

// --- one forward -------------------------------------------------------------------------------------------------

class Forward {
  constructor() {
    const copy = $("forward").content.cloneNode(true);
    this.node = copy.querySelector("article");
    this.nodes = parts(this.node);
    this.up = new Flow(this.nodes.up, "↑ up");
    this.down = new Flow(this.nodes.down, "↓ down");
    this.before = null;      // { at, up, down }: the totals of the last answer
    this.connections = new Map();
    $("forwards").append(this.node);
  }

  update(status, at) {
    const { totals, nodes } = { totals: status.totals, nodes: this.nodes };
    const seconds = this.before ? (at - this.before.at) / 1000 : 0;
    if (seconds > 0) {
      this.up.add(at, Math.max(0, totals.bytes_up - this.before.up) / seconds);
      this.down.add(at, Math.max(0, totals.bytes_down - this.before.down) / seconds);
    }
    if (!this.before || seconds > 0) this.before = { at, up: totals.bytes_up, down: totals.bytes_down };

    say(nodes.name, status.forward);
    set(nodes.state, "data-tone", TONES[status.state] ?? "warn");
    const since = status.reconnecting_ms === null ? "" : ` for ${duration(status.reconnecting_ms)}`;
    badge(nodes.state, status.state + since, MEANINGS[status.state]);
    say(nodes.addresses, status.addresses.join(", "));
    say(nodes.destination, status.destination);
    say(nodes.target, status.target);
    facts(nodes.totals, [
      ["opened", totals.connections], ["up", bytes(totals.bytes_up)], ["down", bytes(totals.bytes_down)],
      ["refused", totals.refused, true], ["unserved", totals.unserved, true], ["resumed", totals.resumptions],
      ["replaced", totals.replacements], ["failed starts", totals.start_failures, true], ["sent again", totals.retransmissions],
    ]);
    this.listSessions(status.sessions);
    this.listConnections(status.connections, seconds);
  }

  listSessions(sessions) {
    say(this.nodes.sessionCount, sessions.length > 1 ? String(sessions.length) : "");
    say(this.nodes.noSessions, sessions.length === 0 ? "None at the moment." : "");
    rows(this.nodes.sessions, sessions.map((session) => ({
      className: session.serves ? "" : "retired",
      cells: [
        { text: String(session.member), className: "num" },
        { text: session.session_id, className: "id mono", title: session.session_id },
        {
          text: session.serves ? session.health : `${session.health}, retired`, tone: TONES[session.health] ?? "warn",
          title: session.serves ? "" : "It serves no new connections, and lives on for those that it has.",
        },
        { text: roundTrip(session.rtt_ms), className: "num", label: "rtt" },
        { text: rate(session.bytes_up_per_s), className: "num", label: "↑" },
        { text: rate(session.bytes_down_per_s), className: "num", label: "↓" },
      ],
    })));
  }

  listConnections(connections, seconds) {
    const known = new Map();
    for (const connection of connections) {
      // Not by their peer: clients of unix sockets have no address, and that of another one may come again.
      const key = connection.id;
      const moved = connection.bytes_up + connection.bytes_down;
      const before = this.connections.get(key);
      const delta = before && moved >= before.moved ? moved - before.moved : 0;
      const perSecond = seconds > 0 ? delta / seconds : before?.perSecond ?? 0;
      // What counts for the order forgets slowly, so that rows do not jump.
      known.set(key, { connection, moved, perSecond, recent: (before?.recent ?? 0) * 0.8 + delta });
    }
    this.connections = known;
    const order = [...known.values()].sort((a, b) => b.recent - a.recent || b.moved - a.moved);
    const waiting = connections.filter((connection) => connection.session_id === null).length;
    const more = order.length - LISTED;
    say(this.nodes.connectionCount, connections.length === 0 ? "" :
      connections.length + (waiting > 0 ? `, ${waiting} waiting for a session` : ""));
    say(this.nodes.noConnections, order.length === 0 ? "None at the moment." :
      more > 0 ? `and ${more} more that move less` : "");
    rows(this.nodes.connections, order.slice(0, LISTED).map(({ connection, perSecond }) => ({
      className: connection.session_id === null ? "retired" : "",
      cells: [
        { text: connection.peer, className: "peer mono", title: connection.session_id ?? "waits for a session" },
        { text: duration(connection.age_ms), className: "num" },
        { text: bytes(connection.bytes_up), className: "num" },
        { text: bytes(connection.bytes_down), className: "num" },
        { text: connection.session_id === null ? "waiting" : rate(perSecond), className: "num" },
      ],
    })));
  }

  // Another program answers, or none: nothing is known between then and now.
  forget(at) {
    this.up.gap(at);
    this.down.gap(at);
    this.before = null;
    this.connections.clear();
  }

  draw(now) {
    this.up.draw(now);
    this.down.draw(now);
  }
}

// --- the program -------------------------------------------------------------------------------------------------

let offset = 0;              // from the program's clock to this page's line of time

function show(status) {
  const here = performance.now();
  if (program !== status.started_at) {
    // Started again, or seen for the first time: its clock begins anew, the lines go on.
    program = status.started_at;
    offset = here - status.uptime_ms;
    for (const forward of forwards.values()) forward.forget(here);
  }
  const at = status.uptime_ms + offset;
  const present = new Set();
  let connections = 0;
  for (const each of status.forwards) {
    // Equal forwards may be given twice.
    let key = each.forward;
    while (present.has(key)) key += "\u0000";
    present.add(key);
    connections += each.connections.length;
    if (!forwards.has(key)) forwards.set(key, new Forward());
    const forward = forwards.get(key);
    forward.update(each, at);
    forward.draw(at);
  }
  for (const [key, forward] of forwards) {
    if (present.has(key)) continue;
    forward.node.remove();
    forwards.delete(key);
  }
  $("empty").hidden = status.forwards.length > 0;
  const waiting = status.forwards.filter((forward) => !forward.ready).length;
  const overall = status.ready ? "ready" : waiting === 0 ? "no forwards" : `${waiting} of ${status.forwards.length} not ready`;
  set($("overall"), "data-tone", status.ready ? "good" : "warn");
  say($("overall"), overall);
  facts($("facts"), [["connections", String(connections)], ["up for", duration(status.uptime_ms)], ["version", status.version]]);
  say(document.querySelector("title"), `${overall} – ssmfwd`);
  lostAt = null;
  $("alarm").hidden = true;
  document.body.classList.remove("out-of-reach");
}

function outOfReach(why) {
  lostAt ??= new Date();
  $("alarm").hidden = false;
  say($("alarm"), program === null ? `ssmfwd is out of reach: ${why}. Asking again every second.` :
    `ssmfwd is out of reach since ${lostAt.toLocaleTimeString()}: ${why}. What is shown is from then. Asking again every second.`);
  set($("overall"), "data-tone", "bad");
  say($("overall"), "out of reach");
  say(document.querySelector("title"), "out of reach – ssmfwd");
  document.body.classList.add("out-of-reach");
}

async function ask() {
  let answer;
  try {
    answer = await fetch("/status", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  } catch (error) {
    return outOfReach(error.name === "TimeoutError" ? "it does not answer" : "nothing listens there");
  }
  if (!answer.ok) return outOfReach(`it answers with status ${answer.status}`);
  try {
    show(await answer.json());
  } catch {
    outOfReach("its answer makes no sense");
  }
}

async function run() {
  const start = performance.now();
  await ask();
  setTimeout(run, Math.max(100, PERIOD_MS - (performance.now() - start)));
}

run();
