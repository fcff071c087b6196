//! The forms in which a value travels: as it is, inside JSON, percent-encoded, inside base64, as hexadecimal digits.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// As it stands between the quotes of a JSON string. Bytes that are not ASCII stay as they are.
pub(crate) fn json(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 8);
    for byte in value {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..=0x1f => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(*byte),
        }
    }
    out
}

/// The other ways in which a text may stand in JSON: with what is not ASCII escaped (Python), with what HTML cares about
/// escaped (Go), with slashes escaped (PHP), each with digits in either case.
fn json_variants(text: &str) -> Vec<Vec<u8>> {
    let ways: [fn(char) -> bool; 4] = [
        |_| false,
        |c| !c.is_ascii(),
        |c| matches!(c, '<' | '>' | '&'),
        |c| !c.is_ascii() || matches!(c, '<' | '>' | '&'),
    ];
    let mut out = Vec::new();
    for way in ways {
        for upper in [false, true] {
            let mut escaped = String::with_capacity(text.len() + 8);
            for c in text.chars() {
                if !way(c) {
                    escaped.push(c);
                    continue;
                }
                for unit in c.encode_utf16(&mut [0; 2]) {
                    escaped.push_str(&if upper { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") });
                }
            }
            out.push(escaped.replace('/', "\\/").into_bytes());
            out.push(escaped.into_bytes());
        }
    }
    out
}

/// With everything but unreserved characters as `%XX`; right in paths, queries and forms alike.
pub(crate) fn percent(value: &[u8]) -> Vec<u8> {
    percent_but(value, b"-._~")
}

/// What else encoders leave as it is: slashes (Python), some signs (browsers), what a path may hold.
const ALSO_PLAIN: [&[u8]; 4] = [b"-._~/", b"-._~!'()*", b"-._*", b"-._~!$&'()*+,;=:@/"];

/// With everything but letters, digits and these as `%XX`.
fn percent_but(value: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 8);
    for byte in value {
        if byte.is_ascii_alphanumeric() || plain.contains(byte) {
            out.push(*byte);
        } else {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    out
}

/// What percent-encoded text stands for; what is no encoding stays.
pub(crate) fn from_percent(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        match digits.and_then(|pair| u8::from_str_radix(pair, 16).ok()).filter(|_| bytes[at] == b'%') {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

/// Digits, lower case.
pub(crate) fn hex(value: &[u8]) -> Vec<u8> {
    value.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect()
}

/// The characters of base64 that depend on `value` alone when `before` other bytes (0, 1 or 2, more repeat) stand ahead of it.
pub(crate) fn base64_inside(value: &[u8], before: usize) -> Vec<u8> {
    let mut padded = vec![0; before];
    padded.extend_from_slice(value);
    let text = STANDARD_NO_PAD.encode(&padded);
    let (first, last) = ((8 * before).div_ceil(6), 8 * padded.len() / 6);
    text.as_bytes()[first..last].to_vec()
}

/// Base64 text in its URL-safe alphabet.
pub(crate) fn url_safe(base64: &[u8]) -> Vec<u8> {
    base64
        .iter()
        .map(|byte| match byte {
            b'+' => b'-',
            b'/' => b'_',
            other => *other,
        })
        .collect()
}

/// Every form in which `secret` is looked for in answers, each with what replaces it. Forms inside base64 keep their length,
/// or what follows them could not be decoded any more.
pub(crate) fn to_scrub(secret: &[u8], stub: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut forms: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut add = |text: Vec<u8>, with: Vec<u8>| {
        if !forms.iter().any(|(known, _)| *known == text) {
            forms.push((text, with));
        }
    };
    add(secret.to_vec(), stub.to_vec());
    let escaped = json(secret);
    for variant in json_variants(&String::from_utf8_lossy(&escaped)) {
        add(variant, stub.to_vec());
    }
    add(escaped, stub.to_vec());
    for plain in ALSO_PLAIN.into_iter().chain([&b"-._~"[..]]) {
        let encoded = percent_but(secret, plain);
        for encoded in [lower_percent(&encoded), encoded] {
            add(String::from_utf8_lossy(&encoded).replace("%20", "+").into_bytes(), stub.to_vec());
            add(encoded, stub.to_vec());
        }
    }
    let same_length: Vec<u8> = stub.iter().copied().cycle().take(secret.len()).collect();
    for before in 0..3 {
        let (text, with) = (base64_inside(secret, before), base64_inside(&same_length, before));
        add(url_safe(&text), url_safe(&with));
        add(text, with);
    }
    let (digits, with) = (hex(secret), hex(&same_length));
    add(digits.to_ascii_uppercase(), with.to_ascii_uppercase());
    add(digits, with);
    forms
}

fn lower_percent(encoded: &[u8]) -> Vec<u8> {
    let mut out = encoded.to_vec();
    let mut i = 0;
    while i + 2 < out.len() + 1 {
        if out[i] == b'%' && i + 2 < out.len() {
            out[i + 1..i + 3].make_ascii_lowercase();
            i += 3;
        } else {
            i += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn base64_of_anything_around_the_value_holds_one_of_the_three_forms() {
        let secret = b"s3cr3t/value+with=signs";
        for before in 0..7 {
            let text = [&b"user:xy"[..before], secret, b"tail"].concat();
            let encoded = STANDARD.encode(text).into_bytes();
            let form = base64_inside(secret, before % 3);
            assert!(encoded.windows(form.len()).any(|w| w == form), "with {before} bytes before");
        }
    }

    #[test]
    fn escapes_json_and_percent() {
        assert_eq!(json(b"a\"b\\c\n\x01"), b"a\\\"b\\\\c\\n\\u0001");
        assert_eq!(percent(b"a b/%c-._~"), b"a%20b%2F%25c-._~");
        assert_eq!(lower_percent(b"%2Fa%2F"), b"%2fa%2f");
    }

    #[test]
    fn looks_for_what_each_language_makes_of_a_value() {
        let forms = to_scrub("AKé/<+>&= end".as_bytes(), b"stub_x_0123456789abcdef");
        let has = |form: &str| forms.iter().any(|(text, _)| text == form.as_bytes());
        for form in [
            "AK\\u00e9/<+>&= end",             // Python's json
            "AKé/\\u003c+\\u003e\\u0026= end", // Go's
            "AK\\u00e9\\/<+>&= end",           // PHP's
            "AK%C3%A9/%3C%2B%3E%26%3D%20end",  // Python's quote
            "AK%c3%a9%2f%3c%2b%3e%26%3d+end",  // a form, small digits
        ] {
            assert!(has(form), "{form}");
        }
    }
}
