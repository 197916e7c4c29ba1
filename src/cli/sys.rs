//! What the platform needs and safe interfaces do not offer. The only place with `unsafe`.
//!
//! Nothing here decides anything: it is done in `exec` and `supervision`.
#![allow(unsafe_code)]

#[cfg(unix)]
use std::io::{self, IsTerminal as _};
use std::{
    env,
    ffi::{OsStr, OsString},
    ops::Range,
};

use crate::forward::stdio::Stdin;

#[cfg(unix)]
pub(super) use self::unix::{Inherited, inherited, monotonic_micros, prepare};

/// Signals are not inherited here.
#[cfg(not(unix))]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Inherited;

#[cfg(not(unix))]
impl Inherited {
    pub(super) fn note() -> Self {
        Self
    }
}

/// Nothing can be asked for here: a child may outlive us.
#[cfg(not(unix))]
pub(super) fn prepare(_command: &mut std::process::Command, _inherited: &Inherited) {}

/// stdin, where it is data and ours alone: what this process starts, a `credential_process` for instance, finds an empty
/// one. A terminal stays where it is, because such a program may have to ask somebody. To be called at the beginning of
/// `main`.
pub(super) fn own_stdin() -> Stdin {
    #[cfg(unix)]
    if !io::stdin().is_terminal()
        && let Ok(moved) = unix::take_stdin()
    {
        return Stdin::moved_to(moved);
    }
    Stdin::default()
}

/// Takes a variable out of the environment: nothing that this process starts inherits it.
///
/// To be called at the beginning of `main`. Once there are other threads, which Linux can tell, the variable is read and
/// stays where it is.
pub(super) fn take_variable(name: &str) -> Option<OsString> {
    let value = env::var_os(name)?;
    if is_only_thread() {
        // SAFETY: nobody else can read or change the environment meanwhile, for there is no other thread: Linux has just
        // said so, and elsewhere than on Windows, where it would do no harm, the callers, all of them in `main` before
        // it starts any, answer for it.
        unsafe { env::remove_var(name) };
    }
    Some(value)
}

/// Whether this thread is the only one of the process, as far as the system tells. Only this thread could change that.
fn is_only_thread() -> bool {
    #[cfg(target_os = "linux")]
    return std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    #[cfg(not(target_os = "linux"))]
    true
}

/// A part of a text, if it begins and ends where characters of ASCII touch it: elsewhere a text of the system may not be
/// cut.
pub(super) fn part(text: &OsStr, range: Range<usize>) -> Option<&OsStr> {
    let bytes = text.as_encoded_bytes();
    let may_cut = |at: usize| {
        at == 0
            || at == bytes.len()
            || bytes.get(at).is_some_and(u8::is_ascii)
            || bytes.get(at - 1).is_some_and(u8::is_ascii)
    };
    if !may_cut(range.start) || !may_cut(range.end) {
        return None;
    }
    let part = bytes.get(range)?;
    // SAFETY: the bytes come from `as_encoded_bytes`, cut only at its ends and next to a non-empty piece of UTF-8, a
    // character of ASCII.
    Some(unsafe { OsStr::from_encoded_bytes_unchecked(part) })
}

#[cfg(unix)]
mod unix {
    use std::{
        ffi::c_int,
        fs::File,
        io,
        mem::{ManuallyDrop, MaybeUninit},
        os::{
            fd::{AsRawFd as _, BorrowedFd, FromRawFd, OwnedFd, RawFd},
            unix::process::CommandExt,
        },
        process::Command,
        ptr,
    };

    use rustix::{
        io::{FdFlags, dup2, fcntl_dupfd_cloexec, fcntl_getfd, fcntl_setfd},
        process::Signal,
    };

    /// The signals that this program catches, and those of job control: all that a parent may have switched off and
    /// whose being off would not survive us.
    ///
    /// Not SIGPIPE: Rust has changed it before `main`, and how it was is not known any more. A child gets the default.
    const KEPT: [Signal; 12] = [
        Signal::HUP,
        Signal::INT,
        Signal::QUIT,
        Signal::TERM,
        Signal::USR1,
        Signal::USR2,
        Signal::ALARM,
        Signal::CHILD,
        Signal::CONT,
        Signal::TSTP,
        Signal::TTIN,
        Signal::TTOU,
    ];

    const SIG_IGN: usize = 1;

    /// The beginning of `struct sigaction`, and more room than any system needs for the rest. The handler comes first on
    /// Linux (but on MIPS), macOS and the BSDs.
    #[repr(C)]
    struct Action {
        handler: usize,
        rest: [usize; 63],
    }

    unsafe extern "C" {
        fn sigaction(signal: c_int, new: *const Action, old: *mut Action) -> c_int;
        fn signal(signal: c_int, handler: usize) -> usize;
    }

    /// The signals that were ignored when the program was started, as `nohup` or a shell's `&` make it.
    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    pub(in crate::cli) struct Inherited {
        ignored: Vec<c_int>,
    }

    impl Inherited {
        /// Looks at the signals. Those with a handler count as not ignored: to be called before there are any.
        pub(in crate::cli) fn note() -> Self {
            Self { ignored: KEPT.iter().map(|signal| signal.as_raw()).filter(|signal| is_ignored(*signal)).collect() }
        }

        /// Whether the signal was ignored.
        #[cfg(test)]
        pub(in crate::cli) fn ignores(&self, signal: Signal) -> bool {
            self.ignored.contains(&signal.as_raw())
        }
    }

    fn is_ignored(signal: c_int) -> bool {
        let mut action = MaybeUninit::<Action>::zeroed();
        // SAFETY: a null pointer asks without changing anything; the answer has room, and all zeroes or not, any bytes
        // are valid for it.
        let (result, action) = unsafe { (sigaction(signal, ptr::null(), action.as_mut_ptr()), action.assume_init()) };
        let Action { handler, rest: _ } = action;
        result == 0 && handler == SIG_IGN
    }

    /// Lets a child begin with the signals as we got them, and end when we do.
    ///
    /// Handlers of ours and SIGPIPE are set back to the default by exec and by the standard library; the mask is not
    /// ours to change, for nobody here blocks a signal.
    ///
    /// On Linux the child is killed when the *thread* that spawns it is over: that has to be one which lives as long as
    /// the process. The kernel forgets the request if COMMAND is set-user-ID or set-group-ID or has capabilities.
    /// Elsewhere there is no such request.
    pub(in crate::cli) fn prepare(command: &mut Command, inherited: &Inherited) {
        let ignored = inherited.ignored.clone();
        let parent = rustix::process::getpid();
        // SAFETY: between fork and exec only async-signal-safe functions are called: signal, prctl and getppid. Nothing is
        // allocated, no lock is taken.
        unsafe {
            command.pre_exec(move || {
                for &ignored in &ignored {
                    signal(ignored, SIG_IGN);
                }
                end_with_parent(parent)
            });
        }
    }

    /// SIGKILL, and not SIGTERM, which an interactive shell ignores: what was connected through us is cut off anyway, and
    /// nobody is left to send a second signal.
    #[cfg(target_os = "linux")]
    fn end_with_parent(parent: rustix::process::Pid) -> io::Result<()> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // Whoever was killed before the request cannot be noticed by it.
        if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }

    #[cfg(not(target_os = "linux"))]
    fn end_with_parent(_parent: rustix::process::Pid) -> io::Result<()> {
        Ok(())
    }

    /// A number that is no descriptor from whoever started the program.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
    pub(in crate::cli) enum NotInherited {
        /// stdin, stdout or stderr, or negative.
        #[error("0, 1 and 2 are stdin, stdout and stderr")]
        Standard,
        /// It is closed, or it was opened by this program.
        #[error("it is not open")]
        Closed,
    }

    /// Takes over a descriptor that the program was started with. No child inherits it any more, and it cannot be taken
    /// twice.
    pub(in crate::cli) fn inherited(number: RawFd) -> Result<OwnedFd, NotInherited> {
        if number <= 2 {
            return Err(NotInherited::Standard);
        }
        // SAFETY: the descriptor is only asked for its flags. If it is closed, that is the answer.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        let flags = fcntl_getfd(borrowed).map_err(|_| NotInherited::Closed)?;
        // What has survived an exec does not have this flag, and everything that this program or a library opens does.
        if flags.contains(FdFlags::CLOEXEC) {
            return Err(NotInherited::Closed);
        }
        fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC).map_err(|_| NotInherited::Closed)?;
        // SAFETY: it is open, nobody in this program has opened it, and the flag that was just set keeps it from being
        // taken again.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    }

    /// Moves stdin to a descriptor that no child inherits, and leaves an empty one in its place.
    pub(super) fn take_stdin() -> io::Result<OwnedFd> {
        let null = File::open("/dev/null")?;
        let taken = fcntl_dupfd_cloexec(io::stdin(), 3)?;
        // SAFETY: it is open, for it has just been duplicated, and it is neither closed here nor owned by anybody else:
        // the standard library only ever borrows it.
        let mut stdin = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(io::stdin().as_raw_fd()) });
        dup2(null, &mut stdin)?;
        Ok(taken)
    }

    /// CLOCK_MONOTONIC in microseconds, by which systemd tells which reload is meant. `None` where no such thing exists.
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    pub(in crate::cli) fn monotonic_micros() -> Option<u64> {
        const CLOCK_MONOTONIC: c_int = 1;

        #[repr(C)]
        struct Timespec {
            seconds: i64,
            nanoseconds: i64,
        }

        unsafe extern "C" {
            fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int;
        }

        let mut time = Timespec { seconds: 0, nanoseconds: 0 };
        // SAFETY: the pointer is valid, and on 64-bit Linux both fields have 64 bits.
        let result = unsafe { clock_gettime(CLOCK_MONOTONIC, &raw mut time) };
        let (seconds, nanoseconds) = (u64::try_from(time.seconds).ok()?, u64::try_from(time.nanoseconds).ok()?);
        (result == 0).then_some(seconds * 1_000_000 + nanoseconds / 1000)
    }

    #[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
    pub(in crate::cli) fn monotonic_micros() -> Option<u64> {
        None
    }
}

#[cfg(test)]
mod tests {
    #[cfg(unix)]
    use super::*;

    #[test]
    fn a_text_is_cut_beside_ascii_only() {
        let text = OsStr::new("ä{b}ö");
        assert_eq!(part(text, 0..2), Some(OsStr::new("ä")));
        assert_eq!(part(text, 2..5), Some(OsStr::new("{b}")));
        assert_eq!(part(text, 5..7), Some(OsStr::new("ö")));
        assert_eq!(part(text, 0..1), None);
        assert_eq!(part(text, 6..7), None);
        assert_eq!(part(text, 5..8), None);
        assert_eq!(part(OsStr::new(""), 0..0), Some(OsStr::new("")));
    }

    /// Tests have threads. That it is removed where there are none is seen by the children of the program.
    #[cfg(target_os = "linux")]
    #[test]
    fn beside_other_threads_a_variable_is_read_and_left() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || stopped.recv().is_err());
        let path = env::var_os("PATH");
        assert!(path.is_some());
        assert_eq!((take_variable("PATH"), env::var_os("PATH")), (path.clone(), path));
        assert_eq!(take_variable("SSMFWD_NO_SUCH_VARIABLE"), None);
        drop(stop);
        assert!(other.join().expect("no panic"));
    }

    #[cfg(unix)]
    #[test]
    fn what_this_program_opened_is_not_inherited() {
        use std::os::fd::AsRawFd;
        let ours = std::fs::File::open("/dev/null").expect("it exists");
        assert_eq!(inherited(ours.as_raw_fd()).err(), Some(unix::NotInherited::Closed));
        for number in [-1, 0, 1, 2] {
            assert_eq!(inherited(number).err(), Some(unix::NotInherited::Standard));
        }
        assert_eq!(inherited(1_000_000).err(), Some(unix::NotInherited::Closed));
    }

    #[cfg(unix)]
    #[test]
    fn a_descriptor_is_taken_once() {
        use std::os::fd::IntoRawFd;
        let ours = std::fs::File::open("/dev/null").expect("it exists");
        // Without the flag, as it would be after an exec.
        rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::empty()).expect("it is open");
        let number = ours.into_raw_fd();
        let taken = inherited(number).expect("open");
        assert!(rustix::io::fcntl_getfd(&taken).expect("open").contains(rustix::io::FdFlags::CLOEXEC));
        assert_eq!(inherited(number).err(), Some(unix::NotInherited::Closed));
    }

    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    #[test]
    fn the_clock_goes_on() {
        let (first, second) = (monotonic_micros(), monotonic_micros());
        assert!(first.is_some() && first <= second, "{first:?} {second:?}");
    }
}
