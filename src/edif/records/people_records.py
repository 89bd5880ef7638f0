"""Users and their keys."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from edif.core.ids import UserName
from edif.core.users import ApiKey, Role, User
from edif.records.access import Access
from edif.records.schema import api_keys, users


class PeopleRecords(Access):
    """See :class:`edif.records.store.PeopleStore`."""

    async def any_user(self) -> bool:
        return bool(await self._fetch(sa.select(users.c.name).limit(1)))

    async def add_user(self, user: User) -> bool:
        values = {
            "name": user.name,
            "role": user.role.value,
            "email": user.email,
            "created_at": user.created_at,
        }
        try:
            await self._run(sa.insert(users), values)
        except IntegrityError:
            return await self.user(user.name) == user
        return True

    async def users(self) -> list[User]:
        return [_user(row) for row in await self._fetch(sa.select(users).order_by(users.c.name))]

    async def user(self, name: UserName) -> User | None:
        rows = await self._fetch(sa.select(users).where(users.c.name == name))
        return _user(rows[0]) if rows else None

    async def remove_user(self, name: UserName, now: float) -> bool:
        def work(connection: sa.Connection) -> bool:
            removed = connection.execute(sa.delete(users).where(users.c.name == name))
            connection.execute(
                sa.update(api_keys)
                .where(api_keys.c.user == name, api_keys.c.revoked_at.is_(None))
                .values(revoked_at=now)
            )
            return removed.rowcount == 1

        return await self._write(work)

    async def add_key(self, key: ApiKey) -> None:
        values = {
            "id": key.id,
            "user": key.user,
            "digest": key.digest,
            "created_at": key.created_at,
            "expires_at": key.expires_at,
            "revoked_at": key.revoked_at,
        }
        try:
            await self._run(sa.insert(api_keys), values)
        except IntegrityError:
            if await self.key_by_id(key.id) != key:
                raise

    async def keys(self, user: UserName | None = None) -> list[ApiKey]:
        statement = sa.select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)
        if user is not None:
            statement = statement.where(api_keys.c.user == user)
        return [_key(row) for row in await self._fetch(statement)]

    async def key_by_digest(self, digest: str) -> ApiKey | None:
        rows = await self._fetch(sa.select(api_keys).where(api_keys.c.digest == digest))
        return _key(rows[0]) if rows else None

    async def key_by_id(self, key_id: str) -> ApiKey | None:
        rows = await self._fetch(sa.select(api_keys).where(api_keys.c.id == key_id))
        return _key(rows[0]) if rows else None

    async def revoke_key(self, key_id: str, now: float) -> bool:
        statement = (
            sa.update(api_keys)
            .where(
                api_keys.c.id == key_id, sa.or_(api_keys.c.revoked_at.is_(None), api_keys.c.revoked_at == now)
            )
            .values(revoked_at=now)
        )
        return await self._run(statement) == 1


def _user(row: sa.Row[Any]) -> User:
    return User(UserName(row.name), Role(row.role), row.created_at, row.email)


def _key(row: sa.Row[Any]) -> ApiKey:
    return ApiKey(row.id, UserName(row.user), row.digest, row.created_at, row.expires_at, row.revoked_at)
