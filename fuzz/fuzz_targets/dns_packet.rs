//! Any bytes as a datagram to a name server: what is answered can be read, is an answer to this
//! question and no larger than allowed, and is the same bytes when it is remembered.

#![no_main]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;

use hickory_proto::op::Message;
use libfuzzer_sys::fuzz_target;
use mill_core::name::{AllocId, NodeId};
use mill_core::net::{NodeTable, Replica, ServiceTable, Tables};
use mill_traffic::fuzzing::Resolver;

const REPLICAS: u16 = 60;

thread_local! {
    static RESOLVER: RefCell<Resolver> = RefCell::new(Resolver::new(tables()));
}

fn host(node: u64) -> IpAddr {
    match u8::try_from(node) {
        Ok(node) if node < 3 => IpAddr::from([192, 0, 2, node]),
        _ => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
    }
}

fn tables() -> Tables {
    let replica = |slot: u16| {
        let node = u64::from(slot % 3) + 1;
        let alloc = AllocId::known(&format!("web.{slot}-a"));
        let (slot, port) = (u64::from(slot), 20_000 + slot);
        Replica { slot, alloc, node: NodeId(node), host: host(node), port }
    };
    let ports = BTreeMap::from([(8080, (0..REPLICAS).map(replica).collect())]);
    let web = ServiceTable { address: 7, ports };
    let node =
        |number| (NodeId(number), NodeTable { name: format!("N.{number}"), host: host(number) });
    Tables {
        services: BTreeMap::from([("web".parse().expect("it is a name"), web)]),
        nodes: (1..=3).map(node).collect(),
        ..Tables::default()
    }
}

fuzz_target!(|question: &[u8]| {
    RESOLVER.with(|resolver| check(&mut resolver.borrow_mut(), question));
});

fn check(resolver: &mut Resolver, question: &[u8]) {
    resolver.forget();
    let Some((answer, remembered)) = resolver.answer(question) else { return };
    assert!(!remembered && answer.len() >= 12 && answer.len() <= 1232);
    assert_eq!(answer[..2], question[..2], "it has another id");
    assert_eq!(answer[2] & 0xf9, question[2] & 0x79 | 0x80, "it has other flags");
    let read = Message::from_vec(&answer).expect("an answer can be read");
    assert!(read.edns.is_some() || answer.len() <= 512, "it is too large without EDNS");
    let (again, remembered) = resolver.answer(question).expect("it is answered again");
    assert_eq!(answer, again, "it depends on something else");
    if !remembered {
        return;
    }
    resolver.forget();
    let other = [&[question[0] ^ 0x55, question[1]], &question[2..]].concat();
    let (under_other, _) = resolver.answer(&other).expect("it is answered under any id");
    assert_eq!(answer[2..], under_other[2..], "it depends on the id");
}
