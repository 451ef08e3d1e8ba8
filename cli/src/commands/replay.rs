//! `mill replay`: a flight recording, decided again.

use std::fs::File;
use std::io::{BufRead as _, BufReader};

use mill_core::recording;

use super::{Outcome, done, pretty};
use crate::args::Replay;
use crate::failure::Failure;

/// `mill replay`.
pub fn replay(args: &Replay, json: bool) -> Outcome {
    let file = File::open(&args.file).map_err(|error| {
        Failure::Failed(format!("cannot read {}: {error}", args.file.display()))
    })?;
    let lines = BufReader::new(file).lines().map_while(Result::ok);
    let found = recording::replay(lines, |record, effects| {
        if args.verbose {
            println!("{:?} {:?}", record.now.mono, record.event);
            effects.iter().for_each(|effect| println!("    {effect:?}"));
        }
    });
    let found = found.map_err(|error| Failure::of(&error))?;
    if json {
        println!("{}", pretty(&found));
        return done();
    }
    println!("{} events led to the same {} effects as recorded", found.events, found.effects);
    if found.torn {
        println!("the last line is cut off: the daemon ended while it wrote it");
    }
    done()
}
