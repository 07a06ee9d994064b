"""Every error a user can meet, in one tree.

Role: a leaf; every other package raises from here and only `mount/` turns an error into an errno.
Invariant: an error is its class and its string fields, so it can cross a socket between the two processes of a
mount and be raised again on the other side (`fields`, `from_wire`); its text is one sentence that says what is
wrong and, where a user can do something, what to do.
"""

import errno


class InfinitfsError(Exception):
    """Root of the tree. `message` is a format string over the keyword fields; `exit_code` is the command's exit
    status; `errno` is what a program on the mounted folder sees; `passing`: whether the same request may succeed
    later by itself."""

    message = "Unexpected failure: {detail}."
    exit_code = 1
    errno = errno.EIO
    passing = False

    def __init__(self, **fields: str) -> None:
        self.fields = fields
        super().__init__(self.message.format(**fields))


def from_wire(name: str, fields: dict[str, str]) -> InfinitfsError:
    """The error of class `name` with `fields`, or the root error where this version does not know the class."""
    pending = [InfinitfsError]
    while pending:
        kind = pending.pop()
        if kind.__name__ == name:
            return kind(**fields)
        pending.extend(kind.__subclasses__())
    return InfinitfsError(detail=f"{name} {fields}")


# --- what a user typed -------------------------------------------------------------------------------------------


class UsageError(InfinitfsError):
    message = "{problem}"
    exit_code = 2
    errno = errno.EINVAL


class InvalidName(UsageError):
    message = '"{name}" is not a valid {kind} name: use 1 to 128 of a-z, 0-9, "-", "_" and ".", not starting with ".".'


# --- what is not there -------------------------------------------------------------------------------------------


class NotFound(InfinitfsError):
    message = "{what} not found: {remedy}."
    exit_code = 10
    errno = errno.ENOENT


class RecordNotFound(NotFound):
    message = 'There is no {kind} "{name}" on this machine: `infinitfs {kind} list` shows those there are.'


class ObjectNotFound(NotFound):
    message = 'The object "{key}" is missing from {storage}.'
    errno = errno.EIO  # not ENOENT: the file is there, its bytes are not


class BucketNotFound(NotFound):
    message = 'There is no bucket "{bucket}" at {endpoint}: create it first or correct --bucket.'


# --- what is taken -----------------------------------------------------------------------------------------------


class InUse(InfinitfsError):
    message = "{what} is in use: {remedy}."
    exit_code = 11
    errno = errno.EBUSY


class AlreadyExists(InUse):
    message = 'The {kind} "{name}" exists already: choose another name or delete it first.'
    errno = errno.EEXIST


class ObjectExists(InUse):
    message = 'The object "{key}" exists already in {storage}.'
    errno = errno.EEXIST


class VolumeOwned(InUse):
    message = (
        'The volume "{volume}" is mounted by {user} on {host} at {mountpoint} since {since}: unmount it there, or, '
        "if that machine is lost, mount here with --take-over."
    )


class StateLocked(InUse):
    message = (
        'The volume "{volume}" is already open on this machine (process {pid}): use that mount, or unmount it first.'
    )


class Fenced(InUse):
    message = (
        'The volume "{volume}" was taken over by {owner}: nothing is written here any more, and the unsent changes of '
        "this machine are kept in {state}; `infinitfs volume set-aside {volume}` moves them away, so that it can be "
        "mounted again."
    )
    errno = errno.EROFS


# --- keys --------------------------------------------------------------------------------------------------------


class WrongKey(InfinitfsError):
    message = "{problem}"
    exit_code = 12
    errno = errno.EACCES


class WrongPassphrase(WrongKey):
    message = "Wrong passphrase for {what}: try again, or check the passphrase source."


class NotMember(WrongKey):
    message = 'The user "{user}" is not a member of the volume {volume}: ask its owner to add this user.'


# --- storage -----------------------------------------------------------------------------------------------------


class StorageUnreachable(InfinitfsError):
    message = "{storage} cannot be reached ({reason}): check the network and the endpoint, then try again."
    exit_code = 13
    passing = True


class FolderAway(StorageUnreachable):
    message = "{storage} cannot be reached ({reason}): connect or mount the disk that it is on, then try again."


class StorageFailed(StorageUnreachable):
    message = "{storage} failed to {action} ({reason})."


class StorageBusy(StorageFailed):
    """It asks for fewer requests, and where the field `retry_after` has a number for none in so many seconds."""

    message = "{storage} is too busy to {action} ({reason}): it is sent fewer requests until it takes them again."

    @property
    def wait(self) -> int:
        """Seconds, 0 where it does not say."""
        text = self.fields.get("retry_after", "")
        return int(text) if text.isdecimal() else 0


class BucketElsewhere(UsageError):
    """While a bucket is made or moved this answer passes."""

    message = 'The bucket "{bucket}" is not in the region {region}: {remedy}.'
    errno = errno.EIO
    passing = True


class StorageRejected(InfinitfsError):
    """A request that will fail however often it is repeated, unless its class says that it is passing."""

    message = "{storage} rejected the request to {action} ({reason})."
    exit_code = 13


class NotS3(StorageRejected):
    message = "What answers at {endpoint} is no S3 service ({reason}): check --endpoint and its port."
    passing = True  # a network that wants a login first answers in the service's place


class CertificateRefused(StorageRejected):
    message = (
        "The certificate of {endpoint} is not trusted ({reason}): check the name in --endpoint, or give the file of "
        "the authority that signed it with --ca-bundle."
    )
    passing = True


class AccessDenied(InfinitfsError):
    message = "{storage} refused to {action} ({reason}): check the credentials and the bucket's policy."
    exit_code = 14


class KeyRefused(AccessDenied):
    message = (
        "{storage} refused the key ({reason}): `infinitfs credentials rotate` replaces a stored one, "
        "`infinitfs credentials check` says whose it is."
    )


class KeyExpired(KeyRefused):
    """Until it is renewed: by itself where it is a role's, else by rotating it."""

    passing = True


class NoKey(AccessDenied):
    message = (
        "There is no key to open {storage} with ({reason}): set it up where these credentials look for it, or name "
        "others that `infinitfs credentials add` has stored."
    )


class RoleRefused(AccessDenied):
    message = (
        "The role {role} cannot be assumed ({reason}): its trust policy must name whom you are, and you need "
        "sts:AssumeRole."
    )


class RightMissing(AccessDenied):
    message = (
        "The key may not {action} in {storage}: the bucket is of another account, or the policy lacks {right} "
        "(`infinitfs storage policy` prints one that is enough)."
    )


class ClockWrong(AccessDenied):
    message = (
        "{storage} refused to {action} because this machine's clock is {off}: set it, e.g. with "
        "`timedatectl set-ntp true`."
    )
    passing = True


class NoSpace(InfinitfsError):
    message = "No space left on {what}: {remedy}."
    errno = errno.ENOSPC


class LocalFileFailed(InfinitfsError):
    message = 'The file "{path}" could not be {action} ({reason}): check that disk and its permissions.'


class LocalDiskFailed(InfinitfsError):
    message = "The local disk failed at {path} ({reason}): check it, then mount again."


# --- integrity ---------------------------------------------------------------------------------------------------


class IntegrityError(InfinitfsError):
    message = "{problem}"
    exit_code = 15


class DamagedObject(IntegrityError):
    message = 'The object "{key}" is damaged ({reason}): nothing of it was used.'


class DamagedFrame(IntegrityError):
    message = "A sealed frame does not open ({reason})."


class DamagedRecord(IntegrityError):
    message = 'The file "{path}" is damaged ({reason}): restore it from a copy or delete it.'


class HistoryRolledBack(IntegrityError):
    message = (
        'The storage of volume "{volume}" shows an older or forked history (record {sequence}): it is not what this '
        "machine saw last; restore the storage or, to accept it as it is, `infinitfs volume set-aside {volume}`."
    )


# --- mounting ----------------------------------------------------------------------------------------------------


class MountFailed(InfinitfsError):
    message = "Cannot mount at {mountpoint}: {reason}."
    exit_code = 16


class UnmountFailed(InfinitfsError):
    message = "Cannot unmount {mountpoint}: {reason}."
    exit_code = 16


class MountSilent(MountFailed):
    message = "The mount does not answer ({reason}): see its log, `infinitfs doctor` looks for the cause."


class ServiceFailed(InfinitfsError):
    message = "`systemctl {action}` failed: {reason}."


class ReadOnly(InfinitfsError):
    message = "The volume is read-only: {reason}."
    errno = errno.EROFS


class NotDrained(StorageUnreachable):
    message = (
        "{bytes} are not in the storage yet ({reason}): they are kept on this machine and the next mount sends them."
    )


# --- what a program on the mounted folder did -----------------------------------------------------------------------


class PathError(InfinitfsError):
    """A file operation that cannot be done; programs see the errno, users of the command line seldom this text."""

    message = "The operation on {path} is not possible."


class NoSuchEntry(PathError):
    message = "There is no {path}."
    errno = errno.ENOENT


class EntryExists(PathError):
    message = "{path} exists."
    errno = errno.EEXIST


class NotADirectory(PathError):
    message = "{path} is not a directory."
    errno = errno.ENOTDIR


class IsADirectory(PathError):
    message = "{path} is a directory."
    errno = errno.EISDIR


class DirectoryNotEmpty(PathError):
    message = "The directory {path} is not empty."
    errno = errno.ENOTEMPTY


class NameTooLong(PathError):
    message = "The name {path} is longer than 255 bytes."
    errno = errno.ENAMETOOLONG


class NotPermitted(PathError):
    message = "{path} does not permit this."
    errno = errno.EPERM


class InvalidOperation(PathError):
    message = "{path} cannot be used like this."
    errno = errno.EINVAL


class NoAttribute(PathError):
    message = "There is no attribute {path}."
    errno = errno.ENODATA


class FileTooLarge(PathError):
    message = "{path} would be too large."
    errno = errno.EFBIG
