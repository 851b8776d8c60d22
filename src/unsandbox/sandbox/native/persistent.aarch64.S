// The first process of a persistent sandbox; see persistent.x86_64.S, which is the same program.
//
// Assembled by scripts/assemble.py, which defines READY_FD and LIFE_FD.

        .set    SYS_close_range, 436
        .set    SYS_write, 64
        .set    SYS_ppoll, 73
        .set    SYS_exit, 93
        .set    SYS_rt_sigaction, 134
        .set    SYS_prctl, 167
        .set    PR_SET_DUMPABLE, 4
        .set    PR_SET_NAME, 15
        .set    SIGCHLD, 17

        // prctl(PR_SET_DUMPABLE, 0)
        mov     x8, #SYS_prctl
        mov     x0, #PR_SET_DUMPABLE
        mov     x1, #0
        svc     #0
        // A promise that is not kept is not made.
        cbnz    w0, leave

        // prctl(PR_SET_NAME, name)
        mov     x8, #SYS_prctl
        mov     x0, #PR_SET_NAME
        adr     x1, name
        svc     #0

        // rt_sigaction(SIGCHLD, ignore, NULL, 8)
        mov     x8, #SYS_rt_sigaction
        mov     x0, #SIGCHLD
        adr     x1, ignore
        mov     x2, #0
        mov     x3, #8
        svc     #0

        // write(READY_FD, name, 4)
        mov     x8, #SYS_write
        mov     x0, #READY_FD
        adr     x1, name
        mov     x2, #4
        svc     #0

        // close_range(0, LIFE_FD - 1, 0)
        mov     x8, #SYS_close_range
        mov     x0, #0
        mov     x1, #(LIFE_FD - 1)
        mov     x2, #0
        svc     #0

        // close_range(LIFE_FD + 1, ~0, 0)
        mov     x8, #SYS_close_range
        mov     x0, #(LIFE_FD + 1)
        mov     w1, #-1
        mov     x2, #0
        svc     #0

wait:   // ppoll({LIFE_FD, 0}, 1, NULL, NULL, 0), again until the other end is closed, or there is no such descriptor
        mov     x9, #LIFE_FD
        str     x9, [sp, #-16]!
        mov     x8, #SYS_ppoll
        mov     x0, sp
        mov     x1, #1
        mov     x2, #0
        mov     x3, #0
        mov     x4, #0
        svc     #0
        add     sp, sp, #16
        cmp     w0, #1
        b.ne    wait

leave:  // exit(0)
        mov     x8, #SYS_exit
        mov     x0, #0
        svc     #0

        .balign 8
name:   .asciz  "init"
        .balign 8
ignore: // struct sigaction with SIG_IGN
        .quad   1, 0, 0, 0
