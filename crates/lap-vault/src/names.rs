//! Fake addresses that stand for names. The sandbox's resolver hands them out; a connection to one means its name. None is
//! ever given to a second name, so an address that some program remembers cannot come to mean another host.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};

use lap_domain::egress::{Host, HostError};

/// Names a sandbox may ask for in its life. Afterwards new names get no address: better than forgetting old ones.
const MAX_NAMES: usize = 32_768;
/// The first addresses of the range are the vault's own (the explicit proxy).
const RESERVED: u32 = 16;

/// A range of IPv4 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InsideNet {
    /// First address.
    pub base: Ipv4Addr,
    /// Length of the common prefix.
    pub bits: u8,
}

impl InsideNet {
    fn contains(self, addr: Ipv4Addr) -> bool {
        let host_bits = 32 - u32::from(self.bits);
        u32::from(addr).checked_shr(host_bits) == u32::from(self.base).checked_shr(host_bits)
    }
}

pub(crate) struct Names {
    net: InsideNet,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    by_name: HashMap<String, u32>,
    /// Name of address `base + RESERVED + index`.
    in_order: Vec<String>,
}

/// What an address inside stands for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Means {
    /// This name.
    Name(String),
    /// Itself: it is not one of the fake ones.
    Itself,
    /// Nothing: it is of the fake range and was never handed out.
    Nothing,
}

impl Names {
    pub fn new(net: InsideNet) -> Self {
        Self { net, known: Mutex::default() }
    }

    /// The address that stands for a name; none when the table is full.
    pub fn address_of(&self, name: &str) -> Result<Option<Ipv4Addr>, HostError> {
        let Host::Name(name) = Host::parse(name)? else { return Err(HostError::OddAddress(name.to_owned())) };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let index = match known.by_name.get(&name) {
            Some(index) => *index,
            None => {
                let room = (1_usize << (32 - u32::from(self.net.bits))).saturating_sub(RESERVED as usize + 1);
                if known.in_order.len() >= MAX_NAMES.min(room) {
                    return Ok(None);
                }
                let index = u32::try_from(known.in_order.len()).expect("the table is bounded far below");
                known.in_order.push(name.clone());
                known.by_name.insert(name, index);
                index
            }
        };
        Ok(Some(Ipv4Addr::from(u32::from(self.net.base) + RESERVED + index)))
    }

    /// What a connection to this address means.
    pub fn meaning_of(&self, addr: Ipv4Addr) -> Means {
        if !self.net.contains(addr) {
            return Means::Itself;
        }
        let index = (u32::from(addr) - u32::from(self.net.base)).checked_sub(RESERVED);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match index.and_then(|i| known.in_order.get(i as usize)) {
            Some(name) => Means::Name(name.clone()),
            None => Means::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names::new(InsideNet { base: Ipv4Addr::new(198, 18, 0, 0), bits: 15 })
    }

    #[test]
    fn a_name_keeps_its_address_and_no_other_gets_it() {
        let names = names();
        let a = names.address_of("Example.COM.").expect("a name").expect("room");
        let b = names.address_of("example.org").expect("a name").expect("room");
        assert_ne!(a, b);
        assert_eq!(names.address_of("example.com").expect("a name"), Some(a));
        assert_eq!(names.meaning_of(a), Means::Name("example.com".to_owned()));
        assert_eq!(names.meaning_of(Ipv4Addr::new(198, 19, 255, 255)), Means::Nothing);
        assert_eq!(names.meaning_of(Ipv4Addr::new(198, 18, 0, 1)), Means::Nothing);
        assert_eq!(names.meaning_of(Ipv4Addr::new(1, 1, 1, 1)), Means::Itself);
        assert!(names.address_of("0x7f.1").is_err());
    }

    #[test]
    fn a_full_table_gives_nothing_and_forgets_nothing() {
        let names = names();
        let first = names.address_of("first").expect("a name");
        for i in 1..MAX_NAMES {
            assert!(names.address_of(&format!("n{i}")).expect("a name").is_some());
        }
        assert_eq!(names.address_of("one-more").expect("a name"), None);
        assert_eq!(names.address_of("first").expect("a name"), first);
    }
}
