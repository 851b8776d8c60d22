"""What the processes of a sandbox agree on: numbers of descriptors."""

from __future__ import annotations

from unsandbox.sandbox.launcher import fd_numbers
from unsandbox.sandbox.zygote import lockdown


def test_programs_that_cannot_import_the_table_of_descriptors_agree_with_it():
    assert lockdown.CONTROL_FD == fd_numbers.ZYGOTE_FD == fd_numbers.CONTROL_FD
    # A request to a zygote brings its descriptors above those that it holds itself.
    assert lockdown.FIRST_PROCESS_FD > fd_numbers.FIRST_FILE_FD


def test_descriptors_of_one_program_have_different_numbers():
    programs = {
        "a job's bubblewrap": (
            "CONTROL_FD", "ARGS_FD", "SECCOMP_FD", "INFO_FD", "SCRIPT_FD", "BLOCK_FD", "FIRST_FILE_FD",
        ),
        "a persistent sandbox's bubblewrap": (
            "READY_FD", "ARGS_FD", "SECCOMP_FD", "INFO_FD", "INIT_FD", "BLOCK_FD", "IMAGE_FD",
        ),
        "a zygote": ("ZYGOTE_FD", "ARGS_FD", "INFO_FD", "ZYGOTE_FILE_FD"),
        "a job's runsc": ("CONTROL_FD", "EXTRA_FD", "INFO_FD", "SCRIPT_FD", "ARCHIVE_FD"),
        "a persistent sandbox's runsc": ("CHECKPOINT_FD", "INFO_FD"),
    }  # fmt: skip
    for program, names in programs.items():
        numbers = [getattr(fd_numbers, name) for name in names]
        assert len({*numbers}) == len(numbers), program
        assert min(numbers) > 2, program
    named = {name for names in programs.values() for name in names}
    assert named == {name for name in vars(fd_numbers) if name.endswith("_FD")}


def test_a_shell_can_close_the_descriptors_of_a_job_script():
    assert max(fd_numbers.CONTROL_FD, fd_numbers.EXTRA_FD, fd_numbers.SCRIPT_FD, fd_numbers.ARCHIVE_FD) < 10
