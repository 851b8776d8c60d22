"""Start a job, do something else, poll it and wait for it; then start another job and cancel it."""

import asyncio
import sys

from un_async import cancel_job, execute_async, get_job, list_jobs, wait_for_job


async def main() -> int:
    """Run the example; return the exit status."""
    job_id = await execute_async("bash", "sleep 1; echo done")
    print("started")

    status = (await get_job(job_id))["status"]
    print("first look:", status)

    job = await wait_for_job(job_id)
    print("at the end:", job["status"], "-", job["stdout"].strip())

    endless = await execute_async("bash", "echo begun; sleep 60")
    await cancel_job(endless)
    cancelled = await wait_for_job(endless)
    print("the other one:", cancelled["status"])

    known = {listed["job_id"] for listed in await list_jobs()}
    print("both are listed:", {job_id, endless} <= known)

    right = (
        status in {"pending", "running"}
        and (job["status"], job["stdout"]) == ("completed", "done\n")
        and cancelled["status"] == "cancelled"
        and {job_id, endless} <= known
    )
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
