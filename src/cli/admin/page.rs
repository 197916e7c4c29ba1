//! The live page: one document that loads nothing and runs nothing but its own script.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::HeaderValue;

const DOCUMENT: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");
/// Where they go in the document.
const PLACES: [(&str, &str); 2] = [("/* page.css */", STYLE), ("/* page.js */", SCRIPT)];

/// The document with its policy.
pub(super) struct Page {
    pub(super) html: Bytes,
    /// Content-Security-Policy: names style and script by their digests, so that nothing inserted would run.
    pub(super) policy: HeaderValue,
}

pub(super) static PAGE: LazyLock<Page> = LazyLock::new(|| {
    let html = PLACES.iter().fold(DOCUMENT.to_owned(), |html, (place, text)| html.replace(place, text));
    let policy = format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        source(STYLE),
        source(SCRIPT)
    );
    // Base64 and the words above are all that is in it.
    let policy = HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"));
    Page { html: html.into(), policy }
});

/// The source expression of an inline text.
fn source(text: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(digest(&SHA256, text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The name of a language, which nothing is loaded from.
    const NAMESPACE: &str = "http://www.w3.org/2000/svg";

    fn html() -> &'static str {
        std::str::from_utf8(&PAGE.html).expect("UTF-8")
    }

    #[test]
    fn the_policy_allows_what_is_in_the_document_and_nothing_else() {
        for (tag, directive, text) in [("style", "style-src", STYLE), ("script", "script-src", SCRIPT)] {
            let opening = format!("<{tag}>");
            let parts: Vec<_> = html().split(&opening).collect();
            let [_, rest] = parts[..] else { panic!("one {tag}") };
            let (inner, _) = rest.split_once(&format!("</{tag}>")).expect("its end");
            assert_eq!(inner, text);
            let policy = PAGE.policy.to_str().expect("text");
            assert!(policy.contains(&format!("{directive} '{}'", source(inner))), "{policy}");
        }
        let outside = DOCUMENT.replace(NAMESPACE, "").to_lowercase();
        for inline in [" style=", "javascript:", "http:", "https:", "<iframe", "<form", "@import", "url("] {
            assert!(!outside.contains(inline), "{inline}");
        }
        let is_handler = |word: &str| word.starts_with("on") && word.contains('=');
        assert!(!outside.split_whitespace().any(is_handler));
    }

    /// What the program tells is never read as markup.
    #[test]
    fn the_script_inserts_text_only() {
        for word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            "DOMParser",
            "srcdoc",
        ] {
            assert!(!SCRIPT.contains(word), "{word}");
        }
        assert!(SCRIPT.contains("textContent"));
        for text in [SCRIPT, STYLE] {
            assert!(!text.contains("</") && !text.contains("<!--"), "it would end the element");
        }
        for word in ["http:", "https:", "url(", "@import"] {
            assert!(!STYLE.contains(word) && !SCRIPT.replace(NAMESPACE, "").contains(word), "{word}");
        }
    }
}
