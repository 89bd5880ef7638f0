"""Users with their keys, groups, and quotas. Every change moves the revision and is noted in the audit log."""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from edif.core.audit import FABRIC
from edif.core.ids import ERASED, GroupName, UserId, UserName
from edif.core.people import People
from edif.core.quota import Measure, Quota, Scope
from edif.core.users import ApiKey, Group, Priority, Role, User
from edif.records import audit_tail
from edif.records.access import Access
from edif.records.schema import api_keys, changes, groups, jobs, quotas, usage, users

_revision = sa.select(changes.c.number).where(changes.c.name == "people")
# Made once: these are asked for every key that comes, known or not.
_any_user = sa.select(users.c.name).limit(1)
_user_of_name = sa.select(users).where(users.c.name == sa.bindparam("wanted"))
_key_of_digest = sa.select(api_keys).where(api_keys.c.digest == sa.bindparam("wanted"))
_next_revision = sa.update(changes).where(changes.c.name == "people").values(number=changes.c.number + 1)


class PeopleRecords(Access):
    """See :class:`edif.records.store.PeopleStore`."""

    async def people(self) -> People:
        # The revision is read first: what changes meanwhile is read once too often, and never missed.
        revision = await self.people_revision()
        every_group = [_group(row) for row in await self._fetch(sa.select(groups))]
        every_quota = [_quota(row) for row in await self._fetch(sa.select(quotas))]
        return People.of(await self.users(), every_group, every_quota, revision)

    async def people_revision(self) -> int:
        (row,) = await self._fetch(_revision)
        return int(row.number)

    async def _change(self, work: Callable[[sa.Connection], bool]) -> bool:
        """Do ``work``; if it says that it changed something, move the revision."""

        def changing(connection: sa.Connection) -> bool:
            changed = work(connection)
            if changed:
                connection.execute(_next_revision)
            return changed

        return await self._write(changing)

    async def _add(self, work: Callable[[sa.Connection], bool], is_there: Callable[[People], bool]) -> bool:
        """Add a row. One with this name already is no reason to refuse if it is the very same: then its answer was lost."""
        try:
            return await self._change(work)
        except IntegrityError:
            return is_there(await self.people())

    # -- users -----------------------------------------------------------------------------------------
    async def any_user(self) -> bool:
        return bool(await self._fetch(_any_user))

    async def add_user(self, user: User, *, by: str = FABRIC) -> bool:
        def work(connection: sa.Connection) -> bool:
            values = {"name": user.name, "id": user.id, "created_at": user.created_at, **_changeable(user)}
            connection.execute(sa.insert(users), values)
            audit_tail.append(connection, "user.added", user.id, by, role=user.role)
            return True

        return await self._add(work, lambda people: people.users.get(user.name) == user)

    async def change_user(self, user: User, *, by: str = FABRIC) -> bool:
        def work(connection: sa.Connection) -> bool:
            found = connection.execute(sa.select(users.c.id).where(users.c.name == user.name)).first()
            if found is None:
                return False
            values = _changeable(user)
            connection.execute(sa.update(users).where(users.c.name == user.name).values(values))
            del values["email"]  # the log holds no personal data
            audit_tail.append(connection, "user.changed", found.id, by, **values)
            return True

        return await self._change(work)

    async def users(self) -> list[User]:
        return [_user(row) for row in await self._fetch(sa.select(users).order_by(users.c.name))]

    async def user(self, name: UserName) -> User | None:
        rows = await self._fetch(_user_of_name, {"wanted": name})
        return _user(rows[0]) if rows else None

    async def on_record(self, name: UserName) -> bool:
        whose = (jobs.c.owner, usage.c.user, api_keys.c.user)
        found = [sa.exists().where(column == name) for column in whose]
        (row,) = await self._fetch(sa.select(sa.or_(*found).label("any")))
        return bool(row.any)

    async def remove_user(self, name: UserName, now: float, *, by: str = FABRIC) -> bool:
        def work(connection: sa.Connection) -> bool:
            user_id = _remove_user(connection, name)
            connection.execute(
                sa.update(api_keys)
                .where(api_keys.c.user == name, api_keys.c.revoked_at.is_(None))
                .values(revoked_at=now)
            )
            if user_id is None:
                return False
            audit_tail.append(connection, "user.removed", user_id, by)
            return True

        return await self._change(work)

    async def erase_user(self, name: UserName, pseudonym: UserName, *, by: str = FABRIC) -> None:
        def work(connection: sa.Connection) -> bool:
            user_id = _remove_user(connection, name)
            connection.execute(sa.delete(api_keys).where(api_keys.c.user == name))
            told = {"description": "", "meta": "{}", "env": "{}", "client_key": None}
            connection.execute(sa.update(jobs).where(jobs.c.owner == name).values(owner=pseudonym, **told))
            connection.execute(sa.update(usage).where(usage.c.user == name).values(user=pseudonym))
            # Who was removed before has no row; the pseudonym is made of the id.
            subject = user_id or pseudonym.removeprefix(ERASED)
            audit_tail.append(connection, "user.erased", subject, by, pseudonym=pseudonym)
            return True

        await self._change(work)

    # -- groups and quotas -----------------------------------------------------------------------------
    async def add_group(self, group: Group, *, by: str = FABRIC) -> bool:
        def work(connection: sa.Connection) -> bool:
            values = _weight_and_priority(group)
            connection.execute(
                sa.insert(groups), {"name": group.name, "created_at": group.created_at, **values}
            )
            audit_tail.append(connection, "group.added", group.name, by, **values)
            return True

        return await self._add(work, lambda people: people.groups.get(group.name) == group)

    async def change_group(self, group: Group, *, by: str = FABRIC) -> bool:
        def work(connection: sa.Connection) -> bool:
            values = _weight_and_priority(group)
            changed = connection.execute(
                sa.update(groups).where(groups.c.name == group.name).values(values)
            ).rowcount
            if changed:
                audit_tail.append(connection, "group.changed", group.name, by, **values)
            return changed == 1

        return await self._change(work)

    async def remove_group(self, name: GroupName, *, by: str = FABRIC) -> bool:
        def work(connection: sa.Connection) -> bool:
            if connection.execute(sa.delete(groups).where(groups.c.name == name)).rowcount == 0:
                return False
            connection.execute(sa.update(users).where(users.c.group_name == name).values(group_name=None))
            _drop_quotas(connection, Scope.GROUP, name)
            audit_tail.append(connection, "group.removed", name, by)
            return True

        return await self._change(work)

    async def set_quota(
        self, scope: Scope, name: str, measure: Measure, amount: float | None, *, by: str = FABRIC
    ) -> None:
        def work(connection: sa.Connection) -> bool:
            place = {"scope": scope.value, "name": name, "measure": measure.value}
            connection.execute(sa.delete(quotas).filter_by(**place))
            if amount is not None:
                connection.execute(sa.insert(quotas), {**place, "amount": amount})
            subject = _subject_of_quota(connection, scope, name)
            audit_tail.append(
                connection, "quota.set", subject, by, scope=scope, measure=measure, amount=amount
            )
            return True

        await self._change(work)

    # -- keys ------------------------------------------------------------------------------------------
    async def add_key(self, key: ApiKey, *, by: str = FABRIC) -> None:
        values = {
            "id": key.id,
            "user": key.user,
            "digest": key.digest,
            "created_at": key.created_at,
            "expires_at": key.expires_at,
            "revoked_at": key.revoked_at,
        }

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.insert(api_keys), values)
            audit_tail.append(connection, "key.made", key.id, by, user=_id_of(connection, key.user))

        try:
            await self._write(work)
        except IntegrityError:
            if await self.key_by_id(key.id) != key:
                raise

    async def keys(self, user: UserName | None = None) -> list[ApiKey]:
        statement = sa.select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)
        if user is not None:
            statement = statement.where(api_keys.c.user == user)
        return [_key(row) for row in await self._fetch(statement)]

    async def key_by_digest(self, digest: str) -> ApiKey | None:
        rows = await self._fetch(_key_of_digest, {"wanted": digest})
        return _key(rows[0]) if rows else None

    async def key_by_id(self, key_id: str) -> ApiKey | None:
        rows = await self._fetch(sa.select(api_keys).where(api_keys.c.id == key_id))
        return _key(rows[0]) if rows else None

    async def revoke_key(self, key_id: str, now: float, *, by: str = FABRIC) -> bool:
        statement = (
            sa.update(api_keys)
            .where(
                api_keys.c.id == key_id, sa.or_(api_keys.c.revoked_at.is_(None), api_keys.c.revoked_at == now)
            )
            .values(revoked_at=now)
        )

        def work(connection: sa.Connection) -> bool:
            before = connection.execute(
                sa.select(api_keys.c.revoked_at).where(api_keys.c.id == key_id)
            ).first()
            revoked = connection.execute(statement).rowcount == 1
            if revoked and before is not None and before.revoked_at is None:
                audit_tail.append(connection, "key.revoked", key_id, by)
            return revoked

        return await self._write(work)


def _id_of(connection: sa.Connection, name: UserName) -> str:
    row = connection.execute(sa.select(users.c.id).where(users.c.name == name)).first()
    return "" if row is None else row.id


def _subject_of_quota(connection: sa.Connection, scope: Scope, name: str) -> str:
    return _id_of(connection, UserName(name)) if scope is Scope.USER else name


def _remove_user(connection: sa.Connection, name: UserName) -> str | None:
    """Delete the row and the quotas of a user; the user's id, or None if there is none."""
    row = connection.execute(sa.select(users.c.id).where(users.c.name == name)).first()
    if row is None:
        return None
    connection.execute(sa.delete(users).where(users.c.name == name))
    _drop_quotas(connection, Scope.USER, name)
    return str(row.id)


def _drop_quotas(connection: sa.Connection, scope: Scope, name: str) -> None:
    connection.execute(sa.delete(quotas).where(quotas.c.scope == scope.value, quotas.c.name == name))


def _changeable(user: User) -> dict[str, Any]:
    return {
        "role": user.role.value,
        "email": user.email,
        "group_name": user.group,
        "weight": user.weight,
        "priority": None if user.priority is None else user.priority.value,
    }


def _weight_and_priority(group: Group) -> dict[str, Any]:
    return {"weight": group.weight, "priority": group.priority.value}


def _user(row: sa.Row[Any]) -> User:
    return User(
        UserName(row.name),
        Role(row.role),
        row.created_at,
        row.email,
        UserId(row.id),
        GroupName(row.group_name) if row.group_name else None,
        row.weight,
        Priority(row.priority) if row.priority else None,
    )


def _group(row: sa.Row[Any]) -> Group:
    return Group(GroupName(row.name), row.created_at, row.weight, Priority(row.priority))


def _quota(row: sa.Row[Any]) -> Quota:
    return Quota(Scope(row.scope), row.name, Measure(row.measure), row.amount)


def _key(row: sa.Row[Any]) -> ApiKey:
    return ApiKey(row.id, UserName(row.user), row.digest, row.created_at, row.expires_at, row.revoked_at)
