//! Messages to the kernel about links, routes and filters: just enough bytes for a sandbox's loopback world.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const HEADER: usize = 16;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLMSG_ERROR: u16 = 2;

const RTM_NEWLINK: u16 = 16;
const RTM_NEWROUTE: u16 = 24;
const RTA_OIF: u16 = 4;
const RT_TABLE_LOCAL: u8 = 255;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_HOST: u8 = 254;
const RTN_LOCAL: u8 = 2;
/// Loopback is the first interface of every network namespace.
const LOOPBACK: u32 = 1;
const IFF_UP: u32 = 1;

/// Brings the loopback interface up.
pub(crate) fn loopback_up() -> io::Result<()> {
    let mut body = vec![0, 0];
    body.extend(0u16.to_ne_bytes());
    body.extend(LOOPBACK.to_ne_bytes());
    body.extend(IFF_UP.to_ne_bytes());
    body.extend(IFF_UP.to_ne_bytes());
    talk(None, &[message(RTM_NEWLINK, NLM_F_ACK, 1, &body)], 1)
}

/// Makes every address of a family local: whatever a program connects to arrives on loopback.
pub(crate) fn any_address_is_local(v6: bool) -> io::Result<()> {
    let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let scope = if v6 { RT_SCOPE_UNIVERSE } else { RT_SCOPE_HOST };
    let mut body = vec![family.as_raw() as u8, 0, 0, 0, RT_TABLE_LOCAL, RTPROT_BOOT, scope, RTN_LOCAL];
    body.extend(0u32.to_ne_bytes());
    body.extend(attribute(RTA_OIF, &LOOPBACK.to_ne_bytes()));
    talk(None, &[message(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, 1, &body)], 1)
}

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_NEWRULE: u16 = 6;
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const NF_INET_LOCAL_OUT: u32 = 3;
/// Where destination addresses are rewritten, before routing looks at them again.
const NF_IP_PRI_NAT_DST: i32 = -100;
const NFT_REG_1: u32 = 1;
const NFT_REG_VERDICT: u32 = 0;
const NFT_META_L4PROTO: u32 = 16;
const NFT_META_NFPROTO: u32 = 15;
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_CMP_EQ: u32 = 0;
const NF_ACCEPT: u32 = 1;
const NF_NAT_RANGE_PROTO_SPECIFIED: u32 = 2;
const IPPROTO_TCP: u8 = 6;

/// Sends every TCP connection to `port`, except those to 127.0.0.0/8 and ::1, which stay the sandbox's own.
pub(crate) fn redirect_tcp(port: u16) -> io::Result<()> {
    let table = attribute(1, &terminated("lap"));
    let chain_name = terminated("output");
    let new = NLM_F_ACK | NLM_F_CREATE;
    let nft = |kind: u16, flags: u16, sequence: u32, body: Vec<u8>| {
        message((NFNL_SUBSYS_NFTABLES << 8) | kind, flags, sequence, &[nfgenmsg(NFPROTO_INET, 0), body].concat())
    };
    let chain = [
        table.clone(),
        attribute(3, &chain_name),
        nested(4, &[attribute(1, &NF_INET_LOCAL_OUT.to_be_bytes()), attribute(2, &NF_IP_PRI_NAT_DST.to_be_bytes())]),
        attribute(7, &terminated("nat")),
    ]
    .concat();
    let rule = |expressions: &[Vec<u8>]| [table.clone(), attribute(2, &chain_name), nested(4, expressions)].concat();
    let own_v4 = rule(&[
        meta(NFT_META_NFPROTO),
        compare(&[NFPROTO_IPV4]),
        // The first byte of the destination address tells 127.0.0.0/8.
        payload(16, 1),
        compare(&[127]),
        accept(),
    ]);
    let own_v6 = rule(&[
        meta(NFT_META_NFPROTO),
        compare(&[NFPROTO_IPV6]),
        payload(24, 16),
        compare(&std::net::Ipv6Addr::LOCALHOST.octets()),
        accept(),
    ]);
    let redirect = rule(&[
        meta(NFT_META_L4PROTO),
        compare(&[IPPROTO_TCP]),
        expression(
            "immediate",
            &[attribute(1, &NFT_REG_1.to_be_bytes()), nested(2, &[attribute(1, &port.to_be_bytes())])],
        ),
        expression(
            "redir",
            &[attribute(1, &NFT_REG_1.to_be_bytes()), attribute(3, &NF_NAT_RANGE_PROTO_SPECIFIED.to_be_bytes())],
        ),
    ]);
    let batch = [
        message(NFNL_MSG_BATCH_BEGIN, 0, 0, &nfgenmsg(0, NFNL_SUBSYS_NFTABLES)),
        nft(NFT_MSG_NEWTABLE, new, 1, table.clone()),
        nft(NFT_MSG_NEWCHAIN, new, 2, chain),
        nft(NFT_MSG_NEWRULE, new | NLM_F_APPEND, 3, own_v4),
        nft(NFT_MSG_NEWRULE, new | NLM_F_APPEND, 4, own_v6),
        nft(NFT_MSG_NEWRULE, new | NLM_F_APPEND, 5, redirect),
        message(NFNL_MSG_BATCH_END, 0, 6, &nfgenmsg(0, NFNL_SUBSYS_NFTABLES)),
    ];
    talk(Some(netlink::NETFILTER), &batch, 5)
}

fn nfgenmsg(family: u8, resource: u16) -> Vec<u8> {
    let mut bytes = vec![family, 0];
    bytes.extend(resource.to_be_bytes());
    bytes
}

fn expression(name: &str, data: &[Vec<u8>]) -> Vec<u8> {
    nested(1, &[attribute(1, &terminated(name)), nested(2, data)])
}

fn meta(key: u32) -> Vec<u8> {
    expression("meta", &[attribute(1, &NFT_REG_1.to_be_bytes()), attribute(2, &key.to_be_bytes())])
}

fn payload(offset: u32, length: u32) -> Vec<u8> {
    expression(
        "payload",
        &[
            attribute(1, &NFT_REG_1.to_be_bytes()),
            attribute(2, &NFT_PAYLOAD_NETWORK_HEADER.to_be_bytes()),
            attribute(3, &offset.to_be_bytes()),
            attribute(4, &length.to_be_bytes()),
        ],
    )
}

fn compare(value: &[u8]) -> Vec<u8> {
    expression(
        "cmp",
        &[
            attribute(1, &NFT_REG_1.to_be_bytes()),
            attribute(2, &NFT_CMP_EQ.to_be_bytes()),
            nested(3, &[attribute(1, value)]),
        ],
    )
}

fn accept() -> Vec<u8> {
    let verdict = nested(2, &[attribute(1, &NF_ACCEPT.to_be_bytes())]);
    expression("immediate", &[attribute(1, &NFT_REG_VERDICT.to_be_bytes()), nested(2, &[verdict])])
}

fn terminated(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    const NLA_F_NESTED: u16 = 0x8000;
    attribute(kind | NLA_F_NESTED, &parts.concat())
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + value.len() + 3);
    bytes.extend(((4 + value.len()) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Sends messages in one go, by default about links and routes, and waits for `answers` acknowledgements.
fn talk(protocol: Option<rustix::net::Protocol>, messages: &[Vec<u8>], answers: usize) -> io::Result<()> {
    let socket: OwnedFd =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    rustix::net::send(&socket, &messages.concat(), SendFlags::empty())?;
    let mut seen = 0;
    let mut buffer = [0; 8192];
    while seen < answers {
        // The kernel has queued its answers before `send` returned; nothing to wait for means something is wrong.
        let (count, _) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::DONTWAIT)?;
        let mut rest = &buffer[..count];
        while let Some((length, kind, error)) = answer(rest) {
            if kind == NLMSG_ERROR {
                if error != 0 {
                    return Err(io::Error::from_raw_os_error(-error));
                }
                seen += 1;
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
    Ok(())
}

/// Length, kind and error number of the first message in `bytes`.
fn answer(bytes: &[u8]) -> Option<(usize, u16, i32)> {
    let length = u32::from_ne_bytes(bytes.get(0..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let error = bytes.get(16..20).and_then(|error| error.try_into().ok()).map_or(0, i32::from_ne_bytes);
    (length >= HEADER && length <= bytes.len()).then_some((length, kind, error))
}
