//! A table made ready to serve: checked, and in the order in which requests ask.
//!
//! A plan is shared by all workers and never changes. What must outlive a publish (buckets of a
//! rate limit, passwords known to be right) is carried over from the plan before where the
//! route's setting is the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use hyper::header::{HeaderName, HeaderValue};
use thiserror::Error;

use crate::auth::Gate;
use crate::cidr::Cidr;
use crate::rate::Limiter;
use crate::table::{HeaderRule, HttpRoute, Service, Table, TcpRoute};

/// A table that makes no sense; nothing of it is served, and the one before still is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the table was refused and the one before is still served: {}", problems.join("; "))]
pub struct TableError {
    /// Everything that is wrong with it, one sentence each.
    pub problems: Vec<String>,
}

/// What all workers serve from.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) generation: u64,
    /// Per exact host, longest path first.
    exact: BTreeMap<Box<str>, Vec<Arc<Route>>>,
    /// Per `.example.com`, for one label before it.
    wildcard: BTreeMap<Box<str>, Vec<Arc<Route>>>,
    /// All routes, by their number.
    pub(crate) routes: Vec<Arc<Route>>,
    pub(crate) services: Vec<Service>,
    pub(crate) tcp: Vec<TcpRoute>,
    pub(crate) trusted_proxies: Vec<Cidr>,
}

/// An HTTP route, ready to serve.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) number: usize,
    pub(crate) table: HttpRoute,
    /// Index into the plan's services.
    pub(crate) service: usize,
    /// The path without its final slash; empty for `/`.
    pub(crate) prefix: Box<str>,
    pub(crate) redirect: Option<HeaderValue>,
    pub(crate) request_headers: Vec<Change>,
    pub(crate) response_headers: Vec<Change>,
    pub(crate) limiter: Option<Arc<Limiter>>,
    pub(crate) gate: Option<Arc<Gate>>,
}

/// A header rule with its names read.
#[derive(Debug)]
pub(crate) enum Change {
    Set(HeaderName, HeaderValue),
    Remove(HeaderName),
}

impl Plan {
    /// Checks a table and makes it ready.
    pub(crate) fn new(table: Table, before: &Plan) -> Result<Plan, TableError> {
        let mut problems = Vec::new();
        let mut names = BTreeMap::new();
        for (index, service) in table.services.iter().enumerate() {
            if names.insert(service.name.clone(), index).is_some() {
                problems.push(format!("service `{}` is there twice; name it once", service.name));
            }
        }
        let mut plan = Plan { generation: before.generation + 1, ..Plan::default() };
        for route in table.http {
            match Route::new(route, plan.routes.len(), &names, before) {
                Ok(route) => plan.add(route, &mut problems),
                Err(more) => problems.extend(more),
            }
        }
        check_tcp(&table.tcp, &names, &mut problems);
        for routes in plan.exact.values_mut().chain(plan.wildcard.values_mut()) {
            routes.sort_by_key(|route| std::cmp::Reverse(route.prefix.len()));
        }
        plan.services = table.services;
        plan.tcp = table.tcp;
        plan.trusted_proxies = table.trusted_proxies;
        if problems.is_empty() { Ok(plan) } else { Err(TableError { problems }) }
    }

    fn add(&mut self, route: Route, problems: &mut Vec<String>) {
        let route = Arc::new(route);
        let of_host = match route.table.host.strip_prefix('*') {
            Some(suffix) => self.wildcard.entry(suffix.into()).or_default(),
            None => self.exact.entry(route.table.host.as_str().into()).or_default(),
        };
        if of_host.iter().any(|other| other.prefix == route.prefix) {
            let HttpRoute { host, path, .. } = &route.table;
            problems.push(format!("two routes are for {host}{path}; keep one"));
        }
        of_host.push(Arc::clone(&route));
        self.routes.push(route);
    }

    /// Whether a peer is believed who its clients are.
    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|range| range.contains(peer))
    }

    /// Whether any route is for this host, and which is for this path.
    pub(crate) fn of_host(&self, host: &str) -> Option<&[Arc<Route>]> {
        if let Some(routes) = self.exact.get(host) {
            return Some(routes);
        }
        let (label, _) = host.split_once('.')?;
        self.wildcard.get(&host[label.len()..]).map(Vec::as_slice)
    }

    fn same(&self, table: &HttpRoute) -> Option<&Route> {
        let routes = self.of_host_pattern(&table.host)?;
        routes.iter().find(|route| route.table.path == table.path).map(|route| &**route)
    }

    fn of_host_pattern(&self, host: &str) -> Option<&Vec<Arc<Route>>> {
        match host.strip_prefix('*') {
            Some(suffix) => self.wildcard.get(suffix),
            None => self.exact.get(host),
        }
    }
}

impl Table {
    /// What of it makes sense, in itself and beside the rest, and what does not: a route that cannot
    /// be served costs no other.
    #[must_use]
    pub fn sensible(self) -> (Table, Vec<String>) {
        let (mut table, mut problems) = (self, Vec::new());
        let names = table.services.iter().enumerate();
        let names = names.map(|(index, service)| (service.name.clone(), index)).collect();
        let (none, mut seen) = (Plan::default(), Plan::default());
        table.http.retain(|route| match Route::new(route.clone(), 0, &names, &none) {
            Ok(route) => {
                let before = problems.len();
                seen.add(route, &mut problems);
                problems.len() == before
            }
            Err(more) => {
                problems.extend(more);
                false
            }
        });
        let mut kept = Vec::with_capacity(table.tcp.len());
        for route in std::mem::take(&mut table.tcp) {
            let before = problems.len();
            kept.push(route);
            check_tcp(&kept, &names, &mut problems);
            if problems.len() > before {
                kept.pop();
            }
        }
        table.tcp = kept;
        (table, problems)
    }
}

/// The route with the longest prefix of this path, if any has one.
pub(crate) fn longest<'a>(routes: &'a [Arc<Route>], path: &str) -> Option<&'a Arc<Route>> {
    routes.iter().find(|route| match path.strip_prefix(&*route.prefix) {
        Some(rest) => rest.is_empty() || rest.starts_with('/'),
        None => false,
    })
}

impl Route {
    fn new(
        table: HttpRoute,
        number: usize,
        services: &BTreeMap<String, usize>,
        before: &Plan,
    ) -> Result<Route, Vec<String>> {
        let mut problems = Vec::new();
        let of = format!("route {}{}", table.host, table.path);
        let name = table.host.strip_prefix("*.").unwrap_or(&table.host);
        if !crate::host::name(name).is_ok_and(|read| read == table.host || read == name) {
            problems.push(format!("{of}: the host is no lower-case host name; write one"));
        }
        let odd = crate::path::read(&table.path)
            .map_or(true, |reading| reading.slashed.is_some() || reading.plain != table.path);
        if odd {
            problems.push(format!("{of}: the path must be plain and begin with `/`"));
        }
        let service = services.get(&table.service).copied();
        if service.is_none() {
            problems.push(format!("{of}: no service `{}` is in the table; add it", table.service));
        }
        if table.rate_limit.is_some_and(|limit| limit.per_second == 0 || limit.burst == 0) {
            problems.push(format!("{of}: a rate limit of 0 lets nobody in; use at least 1"));
        }
        let redirect = table.redirect.as_deref().map(HeaderValue::from_str).transpose();
        if redirect.is_err() {
            problems.push(format!("{of}: the redirect is no URL; remove what is not printable"));
        }
        let request_headers = changes(&table.request_headers, &of, &mut problems);
        let response_headers = changes(&table.response_headers, &of, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        let old = before.same(&table);
        Ok(Route {
            number,
            service: service.expect("a missing one is a problem, and there was none"),
            prefix: table.path.trim_end_matches('/').into(),
            redirect: redirect.unwrap_or_default(),
            request_headers,
            response_headers,
            limiter: table.rate_limit.map(|limit| {
                let kept = old.filter(|route| route.table.rate_limit == Some(limit));
                kept.and_then(|route| route.limiter.clone())
                    .unwrap_or_else(|| Arc::new(Limiter::new(limit)))
            }),
            gate: (!table.basic_auth.is_empty()).then(|| {
                let kept = old.filter(|route| route.table.basic_auth == table.basic_auth);
                kept.and_then(|route| route.gate.clone())
                    .unwrap_or_else(|| Arc::new(Gate::new(table.basic_auth.clone())))
            }),
            table,
        })
    }
}

fn changes(rules: &[HeaderRule], of: &str, problems: &mut Vec<String>) -> Vec<Change> {
    let mut changes = Vec::with_capacity(rules.len());
    for rule in rules {
        let (HeaderRule::Set { name, .. } | HeaderRule::Remove { name }) = rule;
        let Ok(field) = HeaderName::from_bytes(name.as_bytes()) else {
            problems.push(format!("{of}: `{name}` is no header name; use letters, digits and -"));
            continue;
        };
        match rule {
            HeaderRule::Remove { .. } => changes.push(Change::Remove(field)),
            HeaderRule::Set { value, .. } => match HeaderValue::from_str(value) {
                Ok(value) => changes.push(Change::Set(field, value)),
                Err(_) => problems.push(format!("{of}: the value of `{name}` is not printable")),
            },
        }
    }
    changes
}

fn check_tcp(routes: &[TcpRoute], services: &BTreeMap<String, usize>, problems: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for route in routes {
        if !services.contains_key(&route.service) {
            let TcpRoute { listen, service, .. } = route;
            problems.push(format!("tcp {listen}: no service `{service}` is in the table; add it"));
        }
        if !seen.insert((route.listen, route.server_name.clone())) {
            problems.push(format!("tcp {}: two routes are the same; keep one", route.listen));
        }
        let plain = routes.iter().any(|other| {
            other.listen == route.listen && other.server_name.is_none() && other != route
        });
        if plain && route.server_name.is_some() {
            let listen = route.listen;
            problems.push(format!("tcp {listen}: routes that share a port all need server names"));
        }
    }
}
