//! A sandbox's network: a loopback interface on which every address of the world is local, and the sockets that answer.
//!
//! The sockets are made inside and served by the sidecar outside. Nothing else listens, so nothing else answers.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::netlink;

/// Where redirected connections arrive: below 1024, so that no program inside can want it or take it.
const REDIRECT_PORT: u16 = 1;

/// Without redirection only these ports exist: plain and encrypted web, git, the proxy's own, and common alternatives.
const PORTS_WITHOUT_REDIRECT: [u16; 7] = [80, 443, 3128, 8080, 8443, 9418, 22];

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// The sockets of a sandbox.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) tcp: Vec<TcpListener>,
    pub(crate) dns: UdpSocket,
    /// Why there is no redirection, where there is none.
    pub(crate) without_redirect: Option<String>,
}

/// Sets up the network of the namespace this process is in.
pub(crate) fn set_up() -> io::Result<Sockets> {
    netlink::loopback_up()?;
    netlink::any_address_is_local(false)?;
    // A kernel without IPv6 has no such addresses to reach either.
    let v6 = netlink::any_address_is_local(true).is_ok();
    let (ports, without_redirect) = match netlink::redirect_tcp(REDIRECT_PORT) {
        Ok(()) => (vec![REDIRECT_PORT], None),
        Err(error) => (PORTS_WITHOUT_REDIRECT.to_vec(), Some(error.to_string())),
    };
    let tcp = ports.into_iter().map(|port| listener(port, v6)).collect::<io::Result<_>>()?;
    let dns = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53))?;
    dns.set_nonblocking(true)?;
    Ok(Sockets { tcp, dns, without_redirect })
}

fn listener(port: u16, v6: bool) -> io::Result<TcpListener> {
    let (family, address) = if v6 {
        (AddressFamily::INET6, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
    } else {
        (AddressFamily::INET, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if v6 {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}
