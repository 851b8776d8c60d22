# The first process of a persistent sandbox.
#
# It says that the sandbox stands, and waits for the end of the launcher, whose death closes the other end of
# LIFE_FD; its own end is the end of every process inside. Orphans come to it, and the kernel reaps them at once,
# because it ignores SIGCHLD. It has no signal handler, so no signal from inside reaches it, and is not dumpable,
# so that nothing inside can trace it or look into it.
#
# Assembled by scripts/assemble.py, which defines READY_FD and LIFE_FD.

        .set    SYS_write, 1
        .set    SYS_rt_sigaction, 13
        .set    SYS_exit, 60
        .set    SYS_prctl, 157
        .set    SYS_ppoll, 271
        .set    SYS_close_range, 436
        .set    PR_SET_DUMPABLE, 4
        .set    PR_SET_NAME, 15
        .set    SIGCHLD, 17

        # prctl(PR_SET_DUMPABLE, 0)
        mov     $SYS_prctl, %eax
        mov     $PR_SET_DUMPABLE, %edi
        xor     %esi, %esi
        syscall
        # A promise that is not kept is not made.
        test    %eax, %eax
        jnz     leave

        # prctl(PR_SET_NAME, name)
        mov     $SYS_prctl, %eax
        mov     $PR_SET_NAME, %edi
        lea     name(%rip), %rsi
        syscall

        # rt_sigaction(SIGCHLD, ignore, NULL, 8)
        mov     $SYS_rt_sigaction, %eax
        mov     $SIGCHLD, %edi
        lea     ignore(%rip), %rsi
        xor     %edx, %edx
        mov     $8, %r10d
        syscall

        # write(READY_FD, name, 4)
        mov     $SYS_write, %eax
        mov     $READY_FD, %edi
        lea     name(%rip), %rsi
        mov     $4, %edx
        syscall

        # close_range(0, LIFE_FD - 1, 0)
        mov     $SYS_close_range, %eax
        xor     %edi, %edi
        mov     $(LIFE_FD - 1), %esi
        xor     %edx, %edx
        syscall

        # close_range(LIFE_FD + 1, ~0, 0)
        mov     $SYS_close_range, %eax
        mov     $(LIFE_FD + 1), %edi
        mov     $-1, %esi
        xor     %edx, %edx
        syscall

wait:   # ppoll({LIFE_FD, 0}, 1, NULL, NULL, 0), again until the other end is closed, or there is no such descriptor
        sub     $16, %rsp
        movq    $LIFE_FD, (%rsp)
        mov     $SYS_ppoll, %eax
        mov     %rsp, %rdi
        mov     $1, %esi
        xor     %edx, %edx
        xor     %r10d, %r10d
        xor     %r8d, %r8d
        syscall
        add     $16, %rsp
        cmp     $1, %eax
        jne     wait

leave:  # exit(0)
        mov     $SYS_exit, %eax
        xor     %edi, %edi
        syscall

name:   .asciz  "init"
        .balign 8
ignore: # struct sigaction with SIG_IGN
        .quad   1, 0, 0, 0
