//! The records of an authority: what the commands write, and what they refuse by them.

use super::{Authority, ISSUED, Issued, LIST_NUMBER, REVOKED};
use crate::pki::certificate::{self, Built, LeafOrder};
use crate::pki::crl::{self, BuiltList, ListOrder, Reason, Revoked};
use crate::pki::error::{PkiError, Refusal};
use crate::pki::ledger::Ledger;
use crate::pki::moment::Moment;
use crate::pki::request::Request;
use crate::pki::serial::Serial;
use crate::pki::signer::Signer;
use crate::pki::store::{self, Lock, StoreError};
use crate::policy::SpkiPin;

/// The records of an authority, locked against every other command.
#[derive(Debug)]
pub struct Books<'a> {
    authority: &'a Authority,
    pub(super) issued: Ledger<Issued>,
    revoked: Ledger<Revoked>,
    _lock: Lock,
}

impl Authority {
    /// Locks the records, waiting up to half a minute for another command. Take the PIN before.
    ///
    /// # Errors
    /// [`StoreError::Busy`], or a damaged record.
    pub fn lock(&self) -> Result<Books<'_>, PkiError> {
        let lock = Lock::take(&self.dir)?;
        Ok(Books {
            authority: self,
            issued: Ledger::open(&self.dir.join(ISSUED))?,
            revoked: Ledger::open(&self.dir.join(REVOKED))?,
            _lock: lock,
        })
    }
}

impl Books<'_> {
    /// Issues a certificate for the key of `request`. It is in the records when this returns.
    ///
    /// # Errors
    /// [`Refusal`] when the key is certified for the other role or another identity, was revoked as
    /// compromised, or is the authority's own; [`PkiError`] when the token does not sign or a file cannot be written.
    pub fn issue(
        &mut self,
        signer: &dyn Signer,
        request: &Request,
        order: &LeafOrder,
    ) -> Result<(Issued, Built), PkiError> {
        let spki_pin = SpkiPin::of_spki(request.public_key().spki_der());
        self.check_key(spki_pin, order)?;
        if self.issuance(&order.serial).is_some() {
            return Err(Refusal::SerialUsed {
                serial: order.serial.clone(),
            }
            .into());
        }
        let issuer = &self.authority.issuer;
        let built = certificate::leaf(signer, issuer, request.public_key(), order)?;
        let line = Issued {
            serial: order.serial.clone(),
            profile: order.role,
            id: order.id.clone(),
            dns: order.dns.iter().map(ToString::to_string).collect(),
            ip: order.ip.clone(),
            not_after: built.not_after,
            spki_pin,
            issued_at: order.now,
        };
        self.issued.push(line.clone())?;
        Ok((line, built))
    }

    fn check_key(&self, spki_pin: SpkiPin, order: &LeafOrder) -> Result<(), Refusal> {
        if let Some(revoked) = self.compromised(spki_pin) {
            return Err(Refusal::Compromised {
                serial: revoked.serial.clone(),
            });
        }
        let issued = self.issued.entries().iter();
        for earlier in issued.filter(|issued| issued.spki_pin == spki_pin) {
            let serial = earlier.serial.clone();
            if earlier.profile != order.role {
                return Err(Refusal::OtherRole {
                    role: earlier.profile,
                    serial,
                });
            }
            if earlier.id != order.id {
                return Err(Refusal::OtherIdentity {
                    id: earlier.id.clone(),
                    serial,
                });
            }
        }
        Ok(())
    }

    /// What says that this key is in other hands. Lines of older releases name no key, but a certificate.
    fn compromised(&self, spki_pin: SpkiPin) -> Option<&Revoked> {
        let is_about = |revoked: &Revoked| {
            let issued = self.issuance(&revoked.serial);
            revoked.spki_pin == Some(spki_pin) || issued.is_some_and(|it| it.spki_pin == spki_pin)
        };
        let mut lines = self.revoked.entries().iter();
        lines.find(|revoked| revoked.reason == Reason::KeyCompromise && is_about(revoked))
    }

    /// The revocations in force, one for each certificate: since the first line about it, for the reason
    /// of the last.
    fn revocations(&self) -> Vec<Revoked> {
        let mut in_force: Vec<Revoked> = Vec::new();
        for line in self.revoked.entries() {
            match in_force.iter_mut().find(|it| it.serial == line.serial) {
                Some(earlier) => earlier.reason = line.reason,
                None => in_force.push(line.clone()),
            }
        }
        in_force
    }

    /// Records the revocation of a certificate by its serial number. It takes effect with the next
    /// list. One that is revoked for another reason can still be revoked as compromised.
    ///
    /// # Errors
    /// [`Refusal::UnknownSerial`], [`Refusal::AlreadyRevoked`], or a file that cannot be written.
    pub fn revoke_serial(
        &mut self,
        serial: Serial,
        reason: Reason,
        now: Moment,
    ) -> Result<Issued, PkiError> {
        let Some(issued) = self.issuance(&serial).cloned() else {
            return Err(Refusal::UnknownSerial { serial }.into());
        };
        self.record(Revoked {
            serial,
            at: now,
            reason,
            spki_pin: Some(issued.spki_pin),
        })?;
        Ok(issued)
    }

    /// Records the revocation of the certificate in a file's bytes. The authority's signature is
    /// proof enough: a certificate that is missing in the records, because they were restored from
    /// an older copy or because somebody else got at the key, can be revoked too, and gives `None`.
    ///
    /// # Errors
    /// [`Refusal::OtherIssuer`], [`Refusal::OwnCertificate`], [`Refusal::AlreadyRevoked`], no
    /// certificate in `bytes`, or a file that cannot be written.
    pub fn revoke_certificate(
        &mut self,
        bytes: &[u8],
        reason: Reason,
        now: Moment,
    ) -> Result<(Serial, Option<Issued>), PkiError> {
        let (serial, spki_pin) = certificate::if_issued_by(&self.authority.issuer, bytes)?;
        let issued = self.issuance(&serial).cloned();
        self.record(Revoked {
            serial: serial.clone(),
            at: now,
            reason,
            spki_pin: Some(spki_pin),
        })?;
        Ok((serial, issued))
    }

    /// A certificate is revoked once; afterwards it may still turn out that its key is in other hands.
    fn record(&mut self, revoked: Revoked) -> Result<(), PkiError> {
        let of_it = |line: &&Revoked| line.serial == revoked.serial;
        let lines: Vec<&Revoked> = self.revoked.entries().iter().filter(of_it).collect();
        let worse = revoked.reason == Reason::KeyCompromise
            && lines.iter().all(|it| it.reason != Reason::KeyCompromise);
        match lines.first() {
            Some(first) if !worse => {
                let (serial, since) = (revoked.serial, first.at);
                Err(Refusal::AlreadyRevoked { serial, since }.into())
            }
            _ => Ok(self.revoked.push(revoked)?),
        }
    }

    fn issuance(&self, serial: &Serial) -> Option<&Issued> {
        self.issued
            .entries()
            .iter()
            .find(|issued| issued.serial == *serial)
    }

    /// Makes the next revocation list. Its number is on disk before it is signed, so that no number
    /// is ever given twice.
    ///
    /// # Errors
    /// [`Refusal`] when the signer is not the authority; [`PkiError`] when the token does not sign
    /// or a file cannot be read or written.
    pub fn list(
        &mut self,
        signer: &dyn Signer,
        now: Moment,
        days: u32,
    ) -> Result<(u64, BuiltList), PkiError> {
        self.authority.issuer.check(signer, now)?;
        let number = self.next_list_number()?;
        let order = ListOrder {
            number,
            now,
            days,
            revoked: &self.revocations(),
        };
        Ok((number, crl::build(signer, &self.authority.issuer, &order)?))
    }

    /// How many certificates are revoked.
    pub fn revoked(&self) -> usize {
        self.revocations().len()
    }

    fn next_list_number(&self) -> Result<u64, StoreError> {
        let path = self.authority.dir.join(LIST_NUMBER);
        let bytes = store::read_at_most(&path, 32)?;
        let last: u64 = String::from_utf8_lossy(&bytes).trim().parse().map_err(
            |error: std::num::ParseIntError| StoreError::Damaged {
                path: path.clone(),
                line: Some(1),
                source: error.into(),
            },
        )?;
        let next = last.saturating_add(1);
        store::replace(&path, format!("{next}\n").as_bytes())?;
        Ok(next)
    }
}
