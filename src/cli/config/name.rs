//! The names of tunnels.

/// The longest name, in bytes: it begins the names of variables and labels of metrics.
const MAX: usize = 64;

/// What is wrong with a name, if anything.
pub(super) fn problem(name: &str) -> Option<&'static str> {
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match name.as_bytes() {
        [] => Some("it is empty"),
        bytes if bytes.len() > MAX => Some("it is longer than 64 characters"),
        [first, ..] if b"-.".contains(first) => Some("it begins with a dash or a dot"),
        bytes if !bytes.iter().copied().all(is_name_byte) => {
            Some("it has other characters than letters (a to z), digits, -, _ and .")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_good_for_variables_and_arguments() {
        for name in ["db", "my-db", "_x", "a.b", "7", "DB_2"] {
            assert_eq!(problem(name), None, "{name}");
        }
        for name in ["", "-db", ".db", "a b", "ä", "a=b", "a/b", "a\n", &"x".repeat(65)] {
            assert!(problem(name).is_some(), "{name}");
        }
    }
}
