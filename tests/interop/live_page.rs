//! The live page in a real browser: it draws what happens, and comes through reconnects and restarts.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use super::{devtools::Page, program::free_port, tunnel::Tunnel};

/// An echo on loopback, which ends with the program.
fn echo() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            std::thread::spawn(move || std::io::copy(&mut &socket, &mut &socket));
        }
    });
    port
}

fn tunnel(admin: u16, destination: u16) -> Tunnel {
    Tunnel::serve_with(&["--agent", "ideal"], &["--admin", &admin.to_string()], &[format!("0:127.0.0.1:{destination}")])
}

/// Sends bytes through the tunnel and has them back.
fn exchange(socket: &mut TcpStream, size: usize) {
    let bytes = vec![7; size];
    for piece in bytes.chunks(8192) {
        socket.write_all(piece).expect("the tunnel carries");
        socket.read_exact(&mut vec![0; piece.len()]).expect("the tunnel carries");
    }
}

const STATE: &str = "document.querySelector('[data-of=state]')?.textContent";

#[test]
fn the_page_lives() {
    let (admin, destination) = (free_port(), echo());
    let mut tunnel = tunnel(admin, destination);
    let mut page = Page::open(&format!("http://127.0.0.1:{admin}/"));

    // What there is.
    page.until(&format!("{STATE} === 'ready'"));
    assert_eq!(page.value("document.getElementById('overall').textContent"), "ready");
    let name = page.value("document.querySelector('h2').textContent");
    assert_eq!(name, format!("0:127.0.0.1:{destination}"));
    let session = tunnel.session(0).to_owned();
    page.until(&format!("document.querySelector('[data-of=sessions] .id')?.textContent === '{session}'"));
    let before = page.value("document.querySelector('[data-of=up] .line').getAttribute('d')");

    // It moves while bytes flow.
    let mut socket = TcpStream::connect(("127.0.0.1", tunnel.port(0))).expect("a listener");
    let peer = socket.local_addr().expect("an address");
    let rate = "document.querySelector('[data-of=down] [data-of=rate]').textContent";
    exchange(&mut socket, 2_000_000);
    page.until(&format!("document.querySelector('[data-of=connections] .peer')?.textContent === '{peer}'"));
    page.until("document.querySelector('[data-of=down] [data-of=peak]').textContent.startsWith('peak')");
    page.until("document.querySelector('[data-of=totals]').textContent.includes('2.0 MB')");
    page.until(&format!("{rate} === '0 B/s'"));
    assert_ne!(page.value("document.querySelector('[data-of=up] .line').getAttribute('d')"), before);

    // A websocket is lost and replaced: the connection and its figures stay.
    tunnel.aws().act(r#"{"action": "disconnect"}"#);
    tunnel.event("resumed");
    exchange(&mut socket, 10_000);
    page.until("document.querySelector('[data-of=totals]').textContent.includes('resumed1')");
    page.until(&format!("{STATE} === 'ready'"));
    drop(socket);
    page.until("document.querySelector('[data-of=noConnections]').textContent === 'None at the moment.'");

    // The program ends, and comes back.
    tunnel.end();
    page.until("document.body.classList.contains('out-of-reach') && !document.getElementById('alarm').hidden");
    assert_eq!(page.value("document.getElementById('overall').textContent"), "out of reach");
    let tunnel = self::tunnel(admin, destination);
    page.until("!document.body.classList.contains('out-of-reach') && document.getElementById('alarm').hidden");
    page.until(&format!("document.querySelector('[data-of=sessions] .id')?.textContent === '{}'", tunnel.session(0)));
    let mut socket = TcpStream::connect(("127.0.0.1", tunnel.port(0))).expect("a listener");
    exchange(&mut socket, 100_000);
    page.until("document.querySelector('[data-of=totals]').textContent.includes('100 kB')");
    drop(socket);
    page.close();
    tunnel.end();
}
