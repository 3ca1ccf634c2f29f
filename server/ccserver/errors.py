"""What can go wrong, named for it. A docstring is the message that a person reads; only `http` knows status codes."""


class CentralCommandError(Exception):
    """Something went wrong."""

    def __init__(self, message: str | None = None, **members: int | str) -> None:
        """`members` go into the problem document beside the message, for programs."""
        super().__init__(message or type(self).__doc__)
        self.members = members


class BadConfigError(CentralCommandError):
    """The configuration cannot be used."""


class CatalogueError(CentralCommandError):
    """The packaged catalogue of runbooks is not fit."""


class CertificateError(CentralCommandError):
    """The server's certificate cannot be used."""


class PlainHttpError(CentralCommandError):
    """Only over https, or through a proxy of this server's: what is sent here could be read on the way."""


class DatabaseUnavailableError(CentralCommandError):
    """The database does not answer: is it running, and is DATABASE_URL right? Nothing was changed; try again."""


class WrongRoleError(CentralCommandError):
    """The database role is not fit for the server: row security would not bind it. Run `ccserver db roles`."""


class NotDurableError(CentralCommandError):
    """The database may lose what it acknowledged: set fsync, full_page_writes and synchronous_commit to on."""


class KeysLackingError(CentralCommandError):
    """Stored receipts are by a key that the key file lacks: it is an old copy, or another server's."""


class MigrationError(CentralCommandError):
    """The migrations and the database do not fit together."""


class NotMigratedError(MigrationError):
    """The database's schema is older than this release: run `ccserver migrate`."""


class NewerSchemaError(MigrationError):
    """The database's schema is newer than this release: install the release that made it, or a later one."""


class PoolerError(MigrationError):
    """Through a pooler the migrations' lock would hold nothing: set DATABASE_DIRECT_URL, which leads past it."""


class SealBrokenError(CentralCommandError):
    """A sealed secret does not open: the key file is another one, or the row was changed or moved."""


class SweepWithoutScopeError(CentralCommandError):
    """A sweep ran outside platform scope, where row security shows it nothing: nothing was swept."""


class SweepMiscountError(CentralCommandError):
    """A sweep changed another number of rows than it chose: nothing of this chunk was kept."""


class SweepHeldBackError(CentralCommandError):
    """Nothing was let go: no appliance confirms within a day what the database's clock says."""


class NotFoundError(CentralCommandError):
    """There is no such thing here."""


class SiteClosedError(CentralCommandError):
    """The site is closed: it is read and kept, and nothing new begins there."""


class AlreadyExistsError(CentralCommandError):
    """There is one of that name already."""


class NotPendingError(CentralCommandError):
    """The order does not wait any more: an appliance took it, or it ended."""


class OrderTakenError(CentralCommandError):
    """Another copy of this appliance took the order: it runs there, or ran, and nowhere else."""


class RunbookUnknownError(NotFoundError):
    """The catalogue has no such runbook."""


class PeopleOnlyError(CentralCommandError):
    """This runbook is for people: nothing of it runs by itself, and it cannot be ordered."""


class HealingStoppedError(CentralCommandError):
    """Healing is stopped there: nothing is done to its machines, ordered or not, until healing.mode says otherwise."""


class RuleStateError(CentralCommandError):
    """The rule is not where that can be decided of it."""


class LastOwnerError(CentralCommandError):
    """This is the partner's last owner: make another one first."""


class SettingUnknownError(CentralCommandError):
    """There is no such setting."""


class MethodNotAllowedError(CentralCommandError):
    """This address does not take this method: Allow says which it takes."""


class HeaderTwiceError(CentralCommandError):
    """A header that may be there once is there twice, and which one counts nobody can say."""


class BadQueryError(CentralCommandError):
    """A part of the query string is not what this call takes."""


class BadCursorError(BadQueryError):
    """The cursor is not one that this list gave: begin again without it."""


class SecondFactorNeededError(CentralCommandError):
    """Whoever changes something signs in with a second factor: set one up on your account's page."""


class PreconditionNeededError(CentralCommandError):
    """Send If-Match with the ETag that you read, so that nobody's change is overwritten unseen."""


class ChangedMeanwhileError(CentralCommandError):
    """Somebody changed it since you read it: read it again."""


class IdempotencyConflictError(CentralCommandError):
    """This Idempotency-Key was used for another request."""


class TooManyRequestsError(CentralCommandError):
    """Too many requests: wait as long as Retry-After says."""


class QuotaError(TooManyRequestsError):
    """This appliance stored as much as it may for now: wait as long as Retry-After says."""


class BadBodyError(CentralCommandError):
    """The request's body is not what this call takes."""


class TooLargeError(CentralCommandError):
    """The request's body is larger than this call takes."""


class TooSlowError(CentralCommandError):
    """The request's body took more than a minute to arrive."""


class UnsupportedBodyError(CentralCommandError):
    """The request's body is of another type or encoding than this call takes."""


class NotSignedInError(CentralCommandError):
    """Sign in first."""


class ForbiddenError(CentralCommandError):
    """Your role does not allow this."""


class SecondPersonNeededError(ForbiddenError):
    """Another person than the one who ordered it must approve it."""


class PersonNeededError(ForbiddenError):
    """A person who signed in with a second factor approves; an API key cannot."""


class LinkSpentError(CentralCommandError):
    """This link was used already or has expired: ask whoever sent it for a new one."""


class ForeignOriginError(CentralCommandError):
    """The request came from another site's page, and was refused."""


class TokenInvalidError(CentralCommandError):
    """The access token is missing, expired or not ours: get a new one."""


class DeviceUnknownError(CentralCommandError):
    """No such appliance is enrolled here, or it was revoked: enrol it with a new code."""


class NonceExpiredError(CentralCommandError):
    """The nonce is not ours or older than a minute: ask for a new one."""


class SignatureInvalidError(CentralCommandError):
    """The signature is not by the appliance's registered key."""


class CodeUnknownError(CentralCommandError):
    """This server made no such enrolment code: copy the whole code, or ask for a new one."""


class CodeUsedError(CentralCommandError):
    """The enrolment code was used already by another device: ask for a new one."""


class CodeExpiredError(CentralCommandError):
    """The enrolment code has expired: ask for a new one."""


class ProofInvalidError(CentralCommandError):
    """The device did not prove that it holds the key it enrols with."""


class LogUnknownError(CentralCommandError):
    """Nothing of this epoch has arrived yet."""


class LogGapError(CentralCommandError):
    """The entries do not follow on what is stored: send from expected_seq."""


class LogForkError(CentralCommandError):
    """Another entry is stored at this place of the log; both are kept."""


class RootMismatchError(CentralCommandError):
    """The checkpoint's root is not the root over the entries."""


class HeldConflictError(CentralCommandError):
    """The entries do not lead to the receipt that was shown as held."""


class HeldNeededError(CentralCommandError):
    """The database was restored: ask for the head, and show the newest receipt that you hold before the log goes on."""


class RestoredError(DatabaseUnavailableError):
    """The database was just restored from a backup: try again in a moment."""


class CheckpointInvalidError(CentralCommandError):
    """The checkpoint is not signed by the log's key, or not for this log and size."""


class EntryInvalidError(CentralCommandError):
    """An entry is not what belongs at its place in the log."""


class AddressRefusedError(CentralCommandError):
    """The address is not public, so nobody is told there; CCSERVER_NOTIFY_ALLOW lists those that may be."""


class MailNotSetUpError(CentralCommandError):
    """This server has no mail server to hand mail to: set CCSERVER_SMTP_HOST and CCSERVER_SMTP_FROM."""


class ReceiverFailedError(CentralCommandError):
    """The receiver did not take the message."""
