//! Reads the values of QEMU's options: lists of keys and values, JSON objects, and sizes.
//! What cannot be understood gives nothing.

use serde_json::Value;

const KIB: u64 = 1 << 10;
/// The unit of sizes of RAM.
pub(super) const MIB: u64 = 1 << 20;

/// The last value of a key.
pub(super) fn get<'a>(options: &'a [(String, String)], key: &str) -> Option<&'a str> {
    options
        .iter()
        .rev()
        .find(|(name, _)| name == key)
        .map(|(_, value)| value.as_str())
}

/// Splits `first,key=value,flag,key=with,,comma` or a JSON object into pairs. A first
/// word without `=` is the value of `implied`.
pub(super) fn split_options(text: &str, implied: &str) -> Vec<(String, String)> {
    if text.starts_with('{') {
        return json_options(text);
    }
    let mut words = Vec::new();
    let mut word = String::new();
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character != ',' {
            word.push(character);
        } else if characters.next_if_eq(&',').is_some() {
            word.push(',');
        } else {
            words.push(std::mem::take(&mut word));
        }
    }
    words.push(word);
    words
        .into_iter()
        .enumerate()
        .filter(|(_, word)| !word.is_empty())
        .map(|(index, word)| match word.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None if index == 0 => (implied.to_owned(), word),
            None => (word, "on".to_owned()),
        })
        .collect()
}

fn json_options(text: &str) -> Vec<(String, String)> {
    let Ok(Value::Object(fields)) = serde_json::from_str(text) else {
        return Vec::new();
    };
    fields
        .into_iter()
        .filter_map(|(key, value)| match value {
            Value::String(text) => Some((key, text)),
            Value::Number(number) => Some((key, number.to_string())),
            Value::Bool(flag) => Some((key, if flag { "on" } else { "off" }.to_owned())),
            _ => None,
        })
        .collect()
}

/// A size as QEMU reads it: a decimal number, perhaps with a fraction, or `0x…`, and a
/// suffix of B, K, M, G, T, P or E in either case; without one, `unit` applies.
pub(super) fn parse_size(text: &str, unit: u64) -> Option<u64> {
    let text = text.trim();
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(digits, 16).ok()?.checked_mul(unit);
    }
    let end = text
        .find(|character: char| !character.is_ascii_digit() && character != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let factor = match suffix.to_ascii_uppercase().as_str() {
        "" => unit,
        "B" => 1,
        "K" => KIB,
        "M" => MIB,
        "G" => 1 << 30,
        "T" => 1 << 40,
        "P" => 1 << 50,
        "E" => 1 << 60,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().ok()?;
    let mut bytes = whole.checked_mul(factor)?;
    if !fraction.is_empty() {
        // At most 18 digits matter for the largest factor.
        let digits = fraction.get(..fraction.len().min(18))?;
        let numerator: u128 = digits.parse().ok()?;
        let power = u32::try_from(digits.len()).ok()?;
        let part = numerator * u128::from(factor) / 10_u128.pow(power);
        bytes = bytes.checked_add(u64::try_from(part).ok()?)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn commas_and_flags_are_split_as_qemu_splits_them() {
        let options = split_options("first,key=a,,b,flag,key=c=d", "type");
        assert_eq!(get(&options, "type"), Some("first"));
        assert_eq!(get(&options, "key"), Some("c=d"));
        assert_eq!(get(&options, "flag"), Some("on"));
        assert_eq!(options[1].1, "a,b");
        assert!(split_options("{not json", "type").is_empty());
    }

    proptest! {
        #[test]
        fn any_size_text_is_survived(text in "[0-9.xkKmMgGtTpPeE]{0,30}") {
            let _ = parse_size(&text, MIB);
        }

        #[test]
        fn any_option_text_is_survived(text in "[a-z=,{}\":0-9]{0,40}") {
            let _ = split_options(&text, "implied");
        }
    }
}
