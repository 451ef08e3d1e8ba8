//! `mill sim`: simulated clusters under faults, by seed.
