//! PEM, RFC 7468: blocks out of a text, and into one.
//!
//! What stands between blocks (comments, the bag attributes of other tools) is passed over. What the bytes mean is not
//! looked at here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// One block.
#[derive(Clone, PartialEq, Eq)]
pub struct Block {
    /// What stands between `-----BEGIN ` and the dashes.
    pub label: String,
    /// What the base64 says.
    pub bytes: Vec<u8>,
    /// The block has headers of RFC 1421, which an encrypted key has.
    pub has_headers: bool,
}

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";
/// Characters of base64 in a line, RFC 7468 §2.
const LINE: usize = 64;

/// Every block of the text; the error is a sentence that holds nothing of it.
pub fn blocks(text: &str) -> Result<Vec<Block>, String> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().map(str::trim).enumerate();
    while let Some((begin, line)) = lines.next() {
        let Some(label) = line.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(DASHES)) else { continue };
        let mut body = String::new();
        let mut has_headers = false;
        let is_closed = lines.by_ref().find_map(|(_, line)| match line.strip_prefix(END) {
            Some(end) => Some(end.strip_suffix(DASHES) == Some(label)),
            None => {
                if line.contains(':') {
                    has_headers = true;
                } else {
                    body.extend(line.chars().filter(|c| !c.is_whitespace()));
                }
                None
            }
        });
        let fault = |what: &str| Err(format!("line {}: the block that begins here {what}", begin + 1));
        match is_closed {
            None => return fault("has no end; the file may be cut off"),
            Some(false) => return fault("ends as another one"),
            Some(true) => {}
        }
        // A header may end with a dash of its algorithm's; the bytes of an encrypted block are of no use to anybody here.
        let bytes = if has_headers { Some(Vec::new()) } else { STANDARD.decode(&body).ok() };
        let Some(bytes) = bytes else { return fault("is not base64") };
        blocks.push(Block { label: label.to_owned(), bytes, has_headers });
    }
    Ok(blocks)
}

/// A block as text.
pub fn text(label: &str, bytes: &[u8]) -> String {
    let encoded = STANDARD.encode(bytes);
    let mut text = String::with_capacity(encoded.len() + encoded.len() / LINE + 2 * (label.len() + 20));
    text.push_str(&format!("{BEGIN}{label}{DASHES}\n"));
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, further) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = further;
    }
    text.push_str(&format!("{END}{label}{DASHES}\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        match blocks(text) {
            Ok(blocks) => blocks.iter().map(|block| format!("{}:{};", block.label, block.bytes.len())).collect(),
            Err(fault) => fault,
        }
    }

    #[test]
    fn blocks_are_read_whatever_stands_around_them() {
        let one = text("CERTIFICATE", &[7; 100]);
        let key = text("PRIVATE KEY", &[8; 48]);
        assert_eq!(told(&one), "CERTIFICATE:100;");
        assert_eq!(
            told(&format!("Bag Attributes\n  x: y\n{one}\nsubject=a\n{key}")),
            "CERTIFICATE:100;PRIVATE KEY:48;"
        );
        assert_eq!(told(&one.replace('\n', "\r\n")), "CERTIFICATE:100;");
        assert_eq!(told(&format!("  {}", one.replace('\n', "\n    "))), "CERTIFICATE:100;", "a YAML block's indent");
        assert_eq!(told("nothing"), "");
        assert_eq!(blocks(&one).unwrap()[0].bytes, [7; 100]);
    }

    #[test]
    fn a_text_of_any_length_is_read_back() {
        for length in (0..200).chain([4095, 4096]) {
            let bytes = vec![0xa5; length];
            let read = blocks(&text("X", &bytes)).unwrap();
            assert!(read.len() == 1 && read[0].bytes == bytes, "{length}");
        }
    }

    #[test]
    fn broken_blocks_are_told_by_their_line() {
        let one = text("CERTIFICATE", &[7; 100]);
        let cut = &one[..one.len() - 30];
        assert_eq!(
            told(&format!("x\n{cut}")),
            "line 2: the block that begins here has no end; the file may be cut off"
        );
        assert!(told(&one.replace("END CERTIFICATE", "END X")).contains("ends as another"));
        assert!(told("-----BEGIN A-----\n????\n-----END A-----").contains("not base64"));
        let encrypted = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES\n\nAAAA\n-----END RSA PRIVATE KEY-----";
        assert!(blocks(encrypted).unwrap()[0].has_headers);
    }
}
