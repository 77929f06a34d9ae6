//! Rust source as tokens: what is code, what is not, what is only for tests.

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use std::collections::BTreeSet;

/// What was found in one Rust file. Comments, doc comments and blank lines count as nothing.
#[derive(Default)]
pub struct Code {
    /// The lines that hold code other than tests.
    pub lines: BTreeSet<usize>,
    /// The lines of each `unsafe` keyword, tests included.
    pub unsafe_lines: Vec<usize>,
}

impl Code {
    /// Reads a file's text.
    ///
    /// # Panics
    /// When it is not Rust.
    pub fn read(path: &str, text: &str) -> Self {
        let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{path} is not Rust: {error}"));
        let mut code = Self::default();
        code.walk(tokens, Purpose::Product);
        code
    }

    fn walk(&mut self, tokens: TokenStream, purpose: Purpose) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut rest = tokens.as_slice();
        while !rest.is_empty() {
            let (taken, item_purpose) = match attribute(rest) {
                Some((length, Attribute::Doc)) => {
                    rest = &rest[length..];
                    continue;
                }
                Some((length, Attribute::CfgTest)) => (length + item_length(&rest[length..]), Purpose::Test),
                Some((length, Attribute::Other)) => (length, purpose),
                None => (1, purpose),
            };
            rest[..taken].iter().for_each(|token| self.take(token, item_purpose));
            rest = &rest[taken..];
        }
    }

    fn take(&mut self, token: &TokenTree, purpose: Purpose) {
        match token {
            TokenTree::Group(group) => {
                self.count(group.span_open(), purpose);
                self.walk(group.stream(), purpose);
                self.count(group.span_close(), purpose);
            }
            other => {
                if matches!(other, TokenTree::Ident(name) if *name == "unsafe") {
                    self.unsafe_lines.push(other.span().start().line);
                }
                self.count(other.span(), purpose);
            }
        }
    }

    fn count(&mut self, span: Span, purpose: Purpose) {
        if purpose == Purpose::Product {
            self.lines.extend(span.start().line..=span.end().line);
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Purpose {
    Product,
    Test,
}

enum Attribute {
    /// A doc comment, which the tokenizer writes as `#[doc = "…"]`.
    Doc,
    /// `#[cfg(test)]`, on the item that follows.
    CfgTest,
    Other,
}

/// The attribute that these tokens begin with, and how many tokens it is.
fn attribute(tokens: &[TokenTree]) -> Option<(usize, Attribute)> {
    let is_punct = |at: usize, wanted: char| matches!(tokens.get(at), Some(TokenTree::Punct(mark)) if mark.as_char() == wanted);
    if !is_punct(0, '#') {
        return None;
    }
    let body = if is_punct(1, '!') { 2 } else { 1 };
    let Some(TokenTree::Group(group)) = tokens.get(body) else { return None };
    if group.delimiter() != Delimiter::Bracket {
        return None;
    }
    let text = group.stream().to_string().replace(' ', "");
    let kind = match text.as_str() {
        "cfg(test)" => Attribute::CfgTest,
        doc if doc.starts_with("doc=") => Attribute::Doc,
        _ => Attribute::Other,
    };
    Some((body + 1, kind))
}

/// How many tokens the item is that they begin with: up to its `;` or its closing brace.
fn item_length(tokens: &[TokenTree]) -> usize {
    let ends = |token: &TokenTree| match token {
        TokenTree::Punct(mark) => mark.as_char() == ';',
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        _ => false,
    };
    tokens.iter().position(ends).map_or(tokens.len(), |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::Code;

    #[test]
    fn counts_code_and_nothing_else() {
        let text = "//! Page.\n\n/// Doc with unsafe.\nfn f() {\n    // unsafe\n    g(\"unsafe\");\n}\n\n#[cfg(test)]\nmod tests {\n    fn h() {}\n}\n";
        let code = Code::read("sample", text);
        assert_eq!(Vec::from_iter(code.lines), [4, 6, 7]);
        assert!(code.unsafe_lines.is_empty());
    }

    #[test]
    fn finds_unsafe_where_it_is_a_keyword() {
        let text = "fn f() {\n    /* unsafe */ unsafe { g() }\n}\n#[cfg(test)]\nfn t() { unsafe { g() } }\nunsafe impl Send for X {}\n";
        assert_eq!(Code::read("sample", text).unsafe_lines, [2, 5, 6]);
    }

    #[test]
    fn a_string_over_two_lines_is_two_lines() {
        assert_eq!(Code::read("sample", "const S: &str = \"a\nb\";\n").lines.len(), 2);
    }
}
