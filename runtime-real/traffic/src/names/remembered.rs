//! Answers as they were written, by the question as it was asked.
//!
//! What the tables say of a plain question depends on nothing but its bytes after the id, so who
//! asks the same bytes is answered the same bytes. All of it is forgotten when the tables change:
//! who uses it looks before each question. There is a fixed number of places, and a question has
//! one of them, where it takes the place of whatever was there before.

use xxhash_rust::xxh3::xxh3_64;

/// Questions that are remembered, at most.
const PLACES: usize = 2048;
/// The longest question that is remembered: a name of 255 bytes, with EDNS but without options,
/// which differ from one question to the next.
const LONGEST: usize = 12 + 255 + 4 + 11;

/// Bytes of an id, at the beginning of questions and answers (RFC 1035 section 4.1.1).
const ID: usize = 2;

#[derive(Debug)]
pub(crate) struct Remembered(Vec<Option<Pair>>);

#[derive(Debug)]
struct Pair {
    question: Box<[u8]>,
    answer: Box<[u8]>,
}

impl Remembered {
    pub fn new() -> Remembered {
        Remembered(std::iter::repeat_with(|| None).take(PLACES).collect())
    }

    fn place(question: &[u8]) -> Option<usize> {
        let asked = question.get(ID..).filter(|_| question.len() <= LONGEST)?;
        usize::try_from(xxh3_64(asked) % PLACES as u64).ok()
    }

    /// Writes the answer to a question, if it is known.
    pub fn answer(&self, question: &[u8], out: &mut Vec<u8>) -> bool {
        let pair = Remembered::place(question).and_then(|place| self.0[place].as_ref());
        let known = pair.filter(|pair| *pair.question == question[ID..]);
        if let Some(pair) = known {
            out.extend_from_slice(&question[..ID]);
            out.extend_from_slice(&pair.answer);
        }
        known.is_some()
    }

    pub fn keep(&mut self, question: &[u8], answer: &[u8]) {
        if let (Some(place), Some(answer)) = (Remembered::place(question), answer.get(ID..)) {
            self.0[place] = Some(Pair { question: question[ID..].into(), answer: answer.into() });
        }
    }

    pub fn forget(&mut self) {
        self.0.iter_mut().for_each(|pair| *pair = None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(remembered: &Remembered, question: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        remembered.answer(question, &mut out).then_some(out)
    }

    #[test]
    fn an_answer_is_found_under_any_id_and_under_no_other_question() {
        let mut remembered = Remembered::new();
        remembered.keep(b"\x01\x02question", b"\x01\x02answer");
        assert_eq!(answered(&remembered, b"\x07\x08question").unwrap(), b"\x07\x08answer");
        for other in [&b"\x01\x02Question"[..], b"\x01\x02questio", b"\x01\x02", b"\x01", b""] {
            assert_eq!(answered(&remembered, other), None);
        }
        remembered.forget();
        assert_eq!(answered(&remembered, b"\x01\x02question"), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut remembered = Remembered::new();
        for number in 0..100_000_u32 {
            remembered.keep(&number.to_be_bytes(), b"\0\0answer");
        }
        assert_eq!(remembered.0.len(), PLACES);
        remembered.keep(&[7; LONGEST + 1], b"\0\0answer");
        assert_eq!(answered(&remembered, &[7; LONGEST + 1]), None);
    }
}
