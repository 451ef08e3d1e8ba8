//! Requests about certificates: which there are, importing one, ordering one anew.

use super::Node;
use super::requests::Then;
use crate::api::view::{CertificateSource, CertificateView, CertificatesView};
use crate::api::{Answer, ApiError, ErrorCode, RequestId};
use crate::cluster::certificates::{Certificate, CertificateChange, Failure, Imported, Issued};
use crate::cluster::command::Command;
use crate::time::{Now, Wall};

impl Node {
    pub(super) fn certificates_view(&self) -> CertificatesView {
        let cluster = &self.cluster;
        let certificates = &cluster.certificates;
        let imported = certificates.imported.values().map(|imported| CertificateView {
            names: imported.names.clone(),
            source: CertificateSource::Imported,
            default: imported.default,
            ..of(Some(&imported.issued), None)
        });
        let wanted = cluster.wants_certificates();
        let ordered = wanted.iter().map(|name| {
            let known = certificates.ordered.get(name);
            let issued = known.and_then(|known| known.issued.as_deref());
            let failure = known.and_then(|known| known.failure.as_ref());
            CertificateView {
                names: vec![name.clone()],
                ordering: known.is_some_and(|known: &Certificate| known.order.is_some()),
                ..of(issued, failure.or(certificates.unregistered.as_ref()))
            }
        });
        let directory = cluster.settings.directory().url;
        CertificatesView { directory, certificates: imported.chain(ordered).collect() }
    }

    pub(super) fn import_certificate(
        &mut self,
        now: Now,
        id: RequestId,
        imported: Imported,
    ) -> Option<Answer> {
        self.change(now, id, CertificateChange::Import(imported))
    }

    pub(super) fn remove_certificate(
        &mut self,
        now: Now,
        id: RequestId,
        name: String,
    ) -> Result<Option<Answer>, ApiError> {
        let imported = &self.cluster.certificates.imported;
        let found = imported.values().find(|imported| imported.names.contains(&name));
        let Some(first) = found.and_then(|imported| imported.names.first()).cloned() else {
            let message = format!("no certificate was imported for `{name}`");
            let error = ApiError::new(ErrorCode::NotFound, message);
            return Err(error.hint("`mill cert ls` lists what there is"));
        };
        Ok(self.change(now, id, CertificateChange::Remove { name: first }))
    }

    pub(super) fn renew_certificate(
        &mut self,
        now: Now,
        id: RequestId,
        name: String,
    ) -> Result<Option<Answer>, ApiError> {
        if !self.cluster.wants_certificates().contains(&name) {
            let message = format!("no route wants a certificate for `{name}`, or it was imported");
            let error = ApiError::new(ErrorCode::NotFound, message);
            return Err(error.hint("`mill cert ls` lists what there is"));
        }
        let failures = &self.cluster.certificates;
        let failed = failures.ordered.get(&name).and_then(|known| known.failure.as_ref());
        if let Some(failure) = failed.or(failures.unregistered.as_ref())
            && !failure.may_be_retried()
        {
            let message = format!("it failed {} times in a row: {}", failure.count, failure.detail);
            let error = ApiError::new(ErrorCode::Conflict, message);
            return Err(error.hint(
                "the authority allows a few tries in an hour: mend the cause, and it is tried again \
                 when `mill cert ls` says",
            ));
        }
        Ok(self.change(now, id, CertificateChange::Renew { name }))
    }

    fn change(&mut self, now: Now, id: RequestId, change: CertificateChange) -> Option<Answer> {
        self.propose(now, id, Command::Certificates(change), Then::Done);
        None
    }
}

fn of(issued: Option<&Issued>, failure: Option<&Failure>) -> CertificateView {
    let retry = failure.map(|failure| Wall(failure.at.0.saturating_add(failure.rest.0)));
    CertificateView {
        names: Vec::new(),
        source: CertificateSource::Ordered,
        default: false,
        not_before: issued.map(|issued| issued.not_before),
        not_after: issued.map(|issued| issued.not_after),
        ordering: false,
        trouble: failure.map(|failure| failure.detail.clone()),
        failures: failure.map_or(0, |failure| failure.count),
        retry,
    }
}
