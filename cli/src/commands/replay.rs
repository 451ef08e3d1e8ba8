//! `mill replay`: a flight recording, decided again.

use std::fs::File;
use std::io::{BufRead as _, BufReader};

use mill_core::recording;
use serde_json::json;

use super::{Outcome, done, pretty};
use crate::args::Replay;
use crate::failure::Failure;

/// `mill replay`.
pub fn replay(args: &Replay, json: bool) -> Outcome {
    let file = File::open(&args.file).map_err(|error| {
        Failure::Failed(format!("cannot read {}: {error}", args.file.display()))
    })?;
    let mut unreadable = None;
    let lines = BufReader::new(file)
        .lines()
        .map_while(|line| line.map_err(|error| unreadable = Some(error)).ok());
    let found = recording::replay(lines, |record, effects| {
        if args.verbose && json {
            println!("{}", json!({ "record": record, "effects": effects }));
        } else if args.verbose {
            println!("{:?} {:?}", record.now.mono, record.event);
            effects.iter().for_each(|effect| println!("    {effect:?}"));
        }
    });
    if let Some(error) = unreadable {
        let path = args.file.display();
        return Err(Failure::Failed(format!("{path} cannot be read to its end: {error}")));
    }
    let found = found.map_err(|error| Failure::of(&error))?;
    if json {
        let text = if args.verbose { json!(found).to_string() } else { pretty(&found) };
        println!("{text}");
        return done();
    }
    println!("{} events led to the same {} effects as recorded", found.events, found.effects);
    if found.torn {
        println!("the last line is cut off: the daemon ended while it wrote it");
    }
    done()
}
