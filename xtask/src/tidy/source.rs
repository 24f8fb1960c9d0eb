//! One Rust file, as the rules see it: its lines, and its tokens without comments and strings, each with its line and
//! whether it is test code.
//!
//! Refuses a file that does not consist of Rust tokens.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::Finding;

/// A word or sign of the language. Groups become their delimiters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The word, the sign, or a delimiter; `"` stands for any literal.
    pub text: String,
    /// The line, counted from 1.
    pub line: usize,
    /// Whether the token belongs to an item under `#[cfg(test)]`, `#[cfg(loom)]` or `#[test]`, or to a test file: by its
    /// name, or since it is the file of such a module.
    pub test: bool,
}

/// A file's text and tokens.
pub struct Source {
    /// The path, relative to the checkout.
    pub file: String,
    /// The file's lines.
    pub lines: Vec<String>,
    /// The file's tokens in order.
    pub tokens: Vec<Token>,
    /// The file's literals in order, as they are written; documentation, which also is text, is none.
    pub literals: Vec<Token>,
}

impl Source {
    /// Reads a file's tokens.
    pub fn parse(file: &str, text: String) -> Result<Self, Finding> {
        let stream: Result<TokenStream, _> = text.parse();
        let stream = stream.map_err(|error| {
            Finding::new(
                file,
                error.span().start().line,
                format!("not Rust: {error}"),
            )
        })?;
        let (mut tokens, mut literals) = (Vec::new(), Vec::new());
        flatten(stream, is_test_file(file), &mut tokens, &mut literals);
        Ok(Self {
            file: file.to_owned(),
            lines: text.lines().map(str::to_owned).collect(),
            tokens,
            literals,
        })
    }

    /// The crate's directory name, for files of `crates/`.
    pub fn crate_name(&self) -> Option<&str> {
        self.file.strip_prefix("crates/")?.split('/').next()
    }

    /// The line's comment, if it has one. A `//` in a string would pass as one, which does no harm to the rules here.
    pub fn comment(&self, line: usize) -> Option<&str> {
        let text = self.lines.get(line.checked_sub(1)?)?;
        text.split_once("//").map(|(_, comment)| comment)
    }

    /// Whether the tokens from `position` on read like `words`.
    pub fn reads(&self, position: usize, words: &[&str]) -> bool {
        let here = self.tokens.get(position..).unwrap_or_default();
        here.len() >= words.len()
            && here
                .iter()
                .zip(words)
                .all(|(token, word)| token.text == *word)
    }

    /// Where the files may be of modules that this file has only in tests.
    fn test_modules(&self) -> Vec<String> {
        let path = self.file.strip_suffix(".rs").unwrap_or(&self.file);
        let (above, stem) = path.rsplit_once('/').unwrap_or(("", path));
        let directory = match stem {
            "lib" | "main" | "mod" => above,
            _ => path,
        };
        let declared = self.tokens.windows(3).filter_map(|words| match words {
            [word, name, end] if word.text == "mod" && end.text == ";" && word.test => {
                Some(&name.text)
            }
            _ => None,
        });
        declared
            .flat_map(|name| {
                [
                    format!("{directory}/{name}.rs"),
                    format!("{directory}/{name}/mod.rs"),
                ]
            })
            .collect()
    }

    /// The text of the token before `position`.
    pub fn before(&self, position: usize) -> &str {
        position
            .checked_sub(1)
            .and_then(|before| self.tokens.get(before))
            .map_or("", |token| &token.text)
    }
}

/// Takes the files of modules that exist only in tests for what they are.
pub fn mark_files_of_test_modules(sources: &mut [Source]) {
    let mut new: Vec<String> = sources.iter().flat_map(Source::test_modules).collect();
    while !new.is_empty() {
        let mut next = Vec::new();
        for source in sources.iter_mut().filter(|it| new.contains(&it.file)) {
            let known = source.tokens.iter().all(|token| token.test);
            let tokens = source.tokens.iter_mut().chain(&mut source.literals);
            tokens.for_each(|token| token.test = true);
            if !known {
                next.extend(source.test_modules());
            }
        }
        new = next;
    }
}

/// Whether a file holds only tests, benchmarks or examples, by its name.
fn is_test_file(file: &str) -> bool {
    let in_directory =
        |name: &str| file.starts_with(&format!("{name}/")) || file.contains(&format!("/{name}/"));
    ["tests", "benches", "examples"]
        .into_iter()
        .any(in_directory)
        || file.ends_with("/tests.rs")
        || file.ends_with("_tests.rs")
}

/// Appends the tokens of a stream, groups opened. An item after a test attribute, up to its body or semicolon, is test code.
fn flatten(stream: TokenStream, test: bool, tokens: &mut Vec<Token>, literals: &mut Vec<Token>) {
    let mut item_is_test = false;
    let mut trees = stream.into_iter().peekable();
    while let Some(tree) = trees.next() {
        let line = tree.span().start().line;
        let test = test || item_is_test;
        let mut push = |text: String| tokens.push(Token { text, line, test });
        match tree {
            TokenTree::Ident(word) => push(word.to_string()),
            TokenTree::Literal(literal) => {
                push("\"".to_owned());
                let before = tokens.iter().rev().skip(1);
                let documents = before.map(|token| &*token.text).take(2).eq(["=", "doc"]);
                if !documents {
                    let text = literal.to_string();
                    literals.push(Token { text, line, test });
                }
            }
            TokenTree::Punct(sign) => {
                push(sign.as_char().to_string());
                if sign.as_char() == '#'
                    && let Some(TokenTree::Group(group)) = trees.peek()
                {
                    item_is_test |= is_test_attribute(&group.stream());
                }
                if sign.as_char() == ';' {
                    item_is_test = false;
                }
            }
            TokenTree::Group(group) => {
                let end = group.span_close().start().line;
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                push(open.to_owned());
                flatten(group.stream(), test, tokens, literals);
                tokens.push(Token {
                    text: close.to_owned(),
                    line: end,
                    test,
                });
                if group.delimiter() == Delimiter::Brace {
                    item_is_test = false;
                }
            }
        }
    }
}

/// Whether an attribute marks what follows as test code: `test`, or a `cfg` that needs `test` or `loom`.
fn is_test_attribute(attribute: &TokenStream) -> bool {
    let mut words = attribute.to_string();
    words.retain(|c| !c.is_whitespace());
    let Some(condition) = words.strip_prefix("cfg(") else {
        return words == "test";
    };
    let positive = condition.starts_with("test") || condition.starts_with("loom");
    positive
        || ((condition.starts_with("all(") || condition.starts_with("any("))
            && ["test", "loom"].iter().any(|word| condition.contains(word))
            && !condition.contains("not("))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A file with this text.
    pub fn source(file: &str, text: &str) -> Source {
        Source::parse(file, text.to_owned()).expect("Rust tokens")
    }

    #[test]
    fn test_code_is_told_from_the_rest() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests { fn b() {} }\nfn c() {}\n#[cfg(not(test))]\nfn d() {}\n#[test]\nfn e() {}";
        let source = source("crates/link/src/x.rs", text);
        let is_test = |name: &str| {
            source
                .tokens
                .iter()
                .any(|token| token.text == name && token.test)
        };
        assert!(is_test("b") && is_test("e"));
        assert!(!is_test("a") && !is_test("c") && !is_test("d"));
    }

    #[test]
    fn comments_and_strings_are_no_tokens() {
        let source = source(
            "a.rs",
            "// unsafe\nlet x = \"unsafe\"; /* unsafe */ r#\"unsafe\"#",
        );
        assert!(source.tokens.iter().all(|token| token.text != "unsafe"));
    }

    #[test]
    fn literals_are_kept_and_documentation_is_none() {
        let source = source("a.rs", "//!/proc\n///x\nfn a() { b(\"/proc\", b\"c\", 7) }");
        let texts: Vec<_> = source
            .literals
            .iter()
            .map(|it| (&*it.text, it.line))
            .collect();
        assert_eq!(texts, [("\"/proc\"", 3), ("b\"c\"", 3), ("7", 3)]);
    }

    #[test]
    fn files_of_tests_are_known_by_name() {
        assert!(
            is_test_file("crates/ram/src/view_tests.rs")
                && is_test_file("tests/vm/src/lib.rs")
                && is_test_file("crates/x/tests/a.rs")
        );
        assert!(
            !is_test_file("crates/x/src/latests.rs") && !is_test_file("crates/x/src/contests/a.rs")
        );
    }

    #[test]
    fn files_of_test_modules_are_tests_and_what_is_below_them() {
        let files = [
            (
                "crates/x/src/lib.rs",
                "#[cfg(test)]\nmod played;\nmod real;",
            ),
            ("crates/x/src/played.rs", "mod inner;"),
            ("crates/x/src/played/inner.rs", "fn a() { b(\"c\") }"),
            ("crates/x/src/real.rs", "mod mine;"),
            ("crates/x/src/real/mine.rs", "fn a() {}"),
        ];
        let mut sources = files.map(|(file, text)| source(file, text));
        mark_files_of_test_modules(&mut sources);
        let are_tests = sources.map(|source| {
            let mut tokens = source.tokens.iter().chain(&source.literals);
            tokens.all(|token| token.test)
        });
        assert_eq!(are_tests, [false, true, true, false, false]);
    }

    #[test]
    fn what_is_not_rust_is_a_finding() {
        let finding = Source::parse("bad.rs", "fn x() {\n)".to_owned())
            .err()
            .expect("must fail");
        assert_eq!(finding.file, "bad.rs");
    }
}
