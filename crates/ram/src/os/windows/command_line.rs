//! Cuts a command line into words as programs of Microsoft's C runtime do ("Parsing C
//! command-line arguments" in Microsoft's documentation). Any text is survived.

/// The words of a command line; the first is the program.
pub(super) fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start_matches([' ', '\t']).chars().peekable();
    if rest.peek().is_none() {
        return words;
    }
    // In the program's name a backslash is only that, and quotes only hold spaces.
    let mut word = String::new();
    let mut quoted = false;
    for character in rest.by_ref() {
        match character {
            '"' => quoted = !quoted,
            ' ' | '\t' if !quoted => break,
            other => word.push(other),
        }
    }
    words.push(word);
    loop {
        while rest.next_if(|next| matches!(next, ' ' | '\t')).is_some() {}
        if rest.peek().is_none() {
            return words;
        }
        let mut word = String::new();
        let mut quoted = false;
        while let Some(character) = rest.next() {
            match character {
                '\\' => {
                    let mut count = 1;
                    while rest.next_if_eq(&'\\').is_some() {
                        count += 1;
                    }
                    // Before a quote two stand for one, and a single one for the quote.
                    let halved = rest.peek() == Some(&'"');
                    let kept = if halved { count / 2 } else { count };
                    word.extend(std::iter::repeat_n('\\', kept));
                    if halved && count % 2 == 1 {
                        rest.next();
                        word.push('"');
                    }
                }
                '"' if quoted && rest.next_if_eq(&'"').is_some() => word.push('"'),
                '"' => quoted = !quoted,
                ' ' | '\t' if !quoted => break,
                other => word.push(other),
            }
        }
        words.push(word);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::words;

    #[test]
    fn words_are_cut_as_the_c_runtime_cuts_them() {
        let line = r#""C:\Program Files\VMware\vmware-vmx.exe" -# "product=1;name=a \"b\"" -@ "pipe=\\.\pipe\x" "C:\VMs\Big Box\Big Box.vmx""#;
        assert_eq!(
            words(line),
            [
                r"C:\Program Files\VMware\vmware-vmx.exe",
                "-#",
                r#"product=1;name=a "b""#,
                "-@",
                r"pipe=\\.\pipe\x",
                r"C:\VMs\Big Box\Big Box.vmx"
            ]
        );
        // Microsoft's own examples.
        assert_eq!(words(r#"x "a b c" d e"#), ["x", "a b c", "d", "e"]);
        assert_eq!(words(r#"x "ab\"c" "\\" d"#), ["x", "ab\"c", r"\", "d"]);
        assert_eq!(words(r#"x a\\\b d"e f"g h"#), ["x", r"a\\\b", "de fg", "h"]);
        assert_eq!(words(r#"x a\\\"b c d"#), ["x", r#"a\"b"#, "c", "d"]);
        assert_eq!(words(r#"x a\\\\"b c" d e"#), ["x", r"a\\b c", "d", "e"]);
        assert_eq!(words(r#"x a"b"" c d"#), ["x", "ab\" c d"]);
        assert_eq!(words(""), [""; 0]);
        assert_eq!(words("  a  "), ["a"]);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(line in ".{0,200}") {
            let _ = words(&line);
        }

        #[test]
        fn quoted_words_come_back(all in proptest::collection::vec("[a-z \\\\]{1,12}", 0..6)) {
            let mut line = "program".to_owned();
            for word in &all {
                let end = word.len() - word.trim_end_matches('\\').len();
                line.push_str(&format!(" \"{word}{}\"", "\\".repeat(end)));
            }
            prop_assert_eq!(&words(&line)[1..], &all[..]);
        }
    }
}
