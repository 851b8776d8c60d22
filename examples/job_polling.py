"""Start a job, poll it and wait for it; start another and cancel it: the sync twin of async_job_polling.py."""

import sys

from un import cancel_job, execute_async, get_job, list_jobs, wait_for_job


def main() -> int:
    """Run the example; return the exit status."""
    job_id = execute_async("bash", "sleep 1; echo done")
    print("started")

    status = get_job(job_id)["status"]
    print("first look:", status)

    job = wait_for_job(job_id)
    print("at the end:", job["status"], "-", job["stdout"].strip())

    endless = execute_async("bash", "echo begun; sleep 60")
    cancel_job(endless)
    cancelled = wait_for_job(endless)
    print("the other one:", cancelled["status"])

    known = {listed["job_id"] for listed in list_jobs()}
    print("both are listed:", {job_id, endless} <= known)

    right = (
        status in {"pending", "running"}
        and (job["status"], job["stdout"]) == ("completed", "done\n")
        and cancelled["status"] == "cancelled"
        and {job_id, endless} <= known
    )
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
