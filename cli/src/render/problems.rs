//! Problems of a config on standard error, each with its place.

use mill_core::config::{Problem, Source};

/// Prints every problem; the first line of each in red where a person looks.
pub fn print(problems: &[Problem], sources: &[Source]) {
    let coloured = super::colour_on(&std::io::stderr());
    for problem in problems {
        let text = problem.render(sources);
        match text.split_once('\n') {
            Some((first, rest)) if coloured => eprintln!("\x1b[31m{first}\x1b[0m\n{rest}"),
            Some(_) | None => eprintln!("{text}"),
        }
    }
}
