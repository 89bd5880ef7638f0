"""Values that a job keeps on the fabric and a later one uses, by recorded requests, whatever way the bytes go."""

import struct

import httpx

from tests.support.replay import Outcome, Replayer

NUMBERS = 100_000
KEPT_BYTES = 2 * NUMBERS * 4
KEEPER = "j" + 24 * "0"
"""Stands in the recorded request for the id of the job whose values it uses."""


async def keep(client: Replayer) -> Outcome:
    """A job that keeps the first ``NUMBERS`` numbers, and as many ones after them."""
    outcome = await client.run("keeps")
    assert outcome.status == "COMPLETED", outcome.description
    assert outcome.final["meta"]["kept_bytes"] == KEPT_BYTES
    return outcome


async def use(client: Replayer, keeper: str) -> Outcome:
    """A job that uses what that one keeps."""
    blob = (client.blobs / "uses.raw").read_bytes()
    assert blob.count(KEEPER.encode()) >= 1
    named = blob.replace(KEEPER.encode(), keeper.encode())
    return await client.run("uses.raw", blob=named, edif={"uses": [keeper]})


async def check_kept_values(client: Replayer) -> str:
    """What was kept can be fetched by ranges and used, also after links to it were revoked; the id of the job that keeps it."""
    keeper = (await keep(client)).id
    told = (await client.get(f"/edif/v1/jobs/{keeper}/kept")).json()
    assert told["size_bytes"] == KEPT_BYTES
    async with httpx.AsyncClient() as http:
        part = await http.get(told["url"], headers={"range": f"bytes={NUMBERS * 4 - 8}-{NUMBERS * 4 + 3}"})
    assert part.status_code == 206
    assert struct.unpack("<3f", part.content) == (NUMBERS - 2, NUMBERS - 1, 1.0)
    for revoked in (False, True):  # it is used again and again
        if revoked:
            assert (await client.own("POST", f"jobs/{keeper}/revoke-links")).status_code == 200
            async with httpx.AsyncClient() as http:
                assert (await http.get(told["url"])).status_code in (403, 404)
        used = await use(client, keeper)
        assert used.status == "COMPLETED", used.description
        assert used.result is not None
        assert struct.pack("<f", 3.0 * (NUMBERS - 1)) in used.result
    return keeper
