use std::error::Error;

use super::*;

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 443))
}

fn failure(tls: bool, text: &str) -> DialError {
    let (host, source) = ("gateway:443".to_owned(), io::Error::new(io::ErrorKind::TimedOut, text));
    if tls { DialError::Tls { host, source } } else { DialError::Connect { host, source } }
}

#[test]
fn of_many_failures_the_one_that_got_furthest_is_told() {
    let (tcp, tls) = (|text| failure(false, text), |text| failure(true, text));
    for (failures, text, cause) in [
        (vec![], "cannot resolve the name of gateway:443", "the name has no address"),
        (vec![(address(1), tcp("refused"))], "cannot connect to gateway:443", "refused"),
        (
            vec![(address(1), tcp("no route")), (address(3), tcp("refused")), (address(2), tcp("late"))],
            "cannot connect to gateway:443",
            "10.0.0.2:443: late (3 addresses were tried)",
        ),
        (
            vec![(address(1), tls("expired")), (address(3), tls("unknown issuer")), (address(2), tcp("late"))],
            "TLS handshake with gateway:443 failed",
            "10.0.0.3:443: unknown issuer (3 addresses were tried)",
        ),
    ] {
        let error = all_failed("gateway:443", End::Far, failures);
        assert_eq!(error.to_string(), text);
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some(cause));
    }
}
