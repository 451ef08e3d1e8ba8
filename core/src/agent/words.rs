//! What is told of how a container ended: in a sentence, and in its own last words.

use crate::container::Exit;

/// Bytes of output that a report carries: it goes into the log of every node.
const OUTPUT_BYTES: usize = 4096;

/// Of a stop that ended in SIGKILL.
pub(super) const KILLED_AFTER_GRACE: &str = "it did not end within its grace period and was killed; \
    does its main process handle the stop signal (a shell as PID 1 does not)?";

/// The end of what a container said, as much as a report carries.
pub(super) fn last_words(lines: Vec<String>) -> Vec<String> {
    let mut left = OUTPUT_BYTES;
    let mut kept: Vec<String> = Vec::new();
    for mut line in lines.into_iter().rev() {
        if line.len() > left {
            let end = (0..=left).rev().find(|end| line.is_char_boundary(*end));
            line.truncate(end.expect("0 is a boundary"));
            line.push('…');
            left = 0;
        }
        left = left.saturating_sub(line.len());
        kept.push(line);
        if left == 0 {
            break;
        }
    }
    kept.reverse();
    kept
}

impl Exit {
    /// How it ended, as people read it.
    pub fn sentence(self) -> String {
        if self.out_of_memory {
            return "it reached its memory ceiling and the kernel killed it; give it more `memory` \
                    or find what it keeps"
                .to_owned();
        }
        match self.code {
            0 => "it ended by itself with exit code 0; a service is expected to keep running"
                .to_owned(),
            code @ 129..=159 => format!("it was ended by signal {}", code - 128),
            code => format!("it ended by itself with exit code {code}"),
        }
    }
}
