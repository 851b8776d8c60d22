# The first process of a warm sandbox.
#
# It reaps. When the program (process PROGRAM of the sandbox) has ended and others have not, it reports the exit
# code on CONTROL_FD as "ran NNN" and waits for a byte. Then it kills what is left, reports "end NNN", and stays
# until the other end of CONTROL_FD is closed. The program may send the signal ENDING when it is about to exit
# with 0: then the report does not wait until the kernel has taken down its memory. Nothing inside can trace this
# process or end it: it is not dumpable, and all signals wait to be asked for.
#
# Assembled by scripts/assemble.py, which defines CONTROL_FD, PROGRAM and ENDING.

        .set    SYS_read, 0
        .set    SYS_write, 1
        .set    SYS_rt_sigprocmask, 14
        .set    SYS_exit, 60
        .set    SYS_wait4, 61
        .set    SYS_kill, 62
        .set    SYS_rt_sigtimedwait, 128
        .set    SYS_prctl, 157
        .set    PR_SET_DUMPABLE, 4
        .set    PR_SET_NAME, 15
        .set    SIG_SETMASK, 2
        .set    SIGKILL, 9
        .set    WNOHANG, 1
        .set    ANY, -1                 # of wait4: any child; of kill: every process but this one

        # The stack: what a signal says, in whose place a report is put together; a status; the set of all signals.
        .set    siginfo, 0
        .set    si_pid, siginfo + 16
        .set    report, 8
        .set    status, 128
        .set    all, 136
        .set    stack, 144

        # prctl(PR_SET_DUMPABLE, 0)
        mov     $SYS_prctl, %eax
        mov     $PR_SET_DUMPABLE, %edi
        xor     %esi, %esi
        syscall

        # prctl(PR_SET_NAME, name)
        mov     $SYS_prctl, %eax
        mov     $PR_SET_NAME, %edi
        lea     name(%rip), %rsi
        syscall

        sub     $stack, %rsp
        movq    $-1, all(%rsp)

        # rt_sigprocmask(SIG_SETMASK, &all, NULL, 8)
        mov     $SYS_rt_sigprocmask, %eax
        mov     $SIG_SETMASK, %edi
        lea     all(%rsp), %rsi
        xor     %edx, %edx
        mov     $8, %r10d
        syscall

reap:   # wait4(ANY, &status, WNOHANG, NULL), again while there was one
        mov     $SYS_wait4, %eax
        mov     $ANY, %rdi
        lea     status(%rsp), %rsi
        mov     $WNOHANG, %edx
        xor     %r10d, %r10d
        syscall
        cmp     $PROGRAM, %eax
        je      program_ended
        test    %eax, %eax
        jg      reap

        # rt_sigtimedwait(&all, &siginfo, NULL, 8)
        mov     $SYS_rt_sigtimedwait, %eax
        lea     all(%rsp), %rdi
        mov     %rsp, %rsi
        xor     %edx, %edx
        mov     $8, %r10d
        syscall
        # Any signal but the program's own word: look for children that have ended.
        cmp     $ENDING, %eax
        jne     reap
        cmpl    $PROGRAM, si_pid(%rsp)
        jne     reap

        # The program is about to exit with 0: kill(ANY, SIGKILL).
        mov     $SYS_kill, %eax
        mov     $ANY, %rdi
        mov     $SIGKILL, %esi
        syscall
        xor     %ebx, %ebx
        jmp     report_end

program_ended:
        # ebx: its exit code, the second byte of the status; or 128 and the number of the signal in the first.
        mov     status(%rsp), %eax
        movzbl  %ah, %ebx
        and     $0x7f, %eax
        jz      reap_others
        lea     128(%rax), %ebx

reap_others:
        # wait4(ANY, &status, WNOHANG, NULL), again while there was one; below 0: nobody is left
        mov     $SYS_wait4, %eax
        mov     $ANY, %rdi
        lea     status(%rsp), %rsi
        mov     $WNOHANG, %edx
        xor     %r10d, %r10d
        syscall
        test    %eax, %eax
        jg      reap_others
        js      report_end

        # Others have not ended: they go on until the server says so, or closes the socket.
        mov     $0x206e6172, %eax       # "ran "
        call    say
        call    hear
        test    %eax, %eax
        jle     leave

        # kill(ANY, SIGKILL)
        mov     $SYS_kill, %eax
        mov     $ANY, %rdi
        mov     $SIGKILL, %esi
        syscall

reap_killed:
        # wait4(ANY, &status, 0, NULL), again until nobody is left
        mov     $SYS_wait4, %eax
        mov     $ANY, %rdi
        lea     status(%rsp), %rsi
        xor     %edx, %edx
        xor     %r10d, %r10d
        syscall
        test    %eax, %eax
        jns     reap_killed

report_end:
        mov     $0x20646e65, %eax       # "end "
        call    say
        call    hear

leave:  # exit(0)
        mov     $SYS_exit, %eax
        xor     %edi, %edi
        syscall

say:    # Report the word in eax and the three digits of ebx. The return address lies on the stack: 8 more.
        mov     %eax, report(%rsp)
        mov     %ebx, %eax
        mov     $10, %ecx
        xor     %edx, %edx
        div     %ecx
        add     $'0', %dl
        mov     %dl, report + 6(%rsp)
        xor     %edx, %edx
        div     %ecx
        add     $'0', %dl
        mov     %dl, report + 5(%rsp)
        add     $'0', %al
        mov     %al, report + 4(%rsp)
        movb    $'\n', report + 7(%rsp)
        # write(CONTROL_FD, report, 8)
        mov     $SYS_write, %eax
        mov     $CONTROL_FD, %edi
        lea     report(%rsp), %rsi
        mov     $8, %edx
        syscall
        ret

hear:   # read(CONTROL_FD, report, 1)
        xor     %eax, %eax
        mov     $CONTROL_FD, %edi
        lea     report(%rsp), %rsi
        mov     $1, %edx
        syscall
        ret

name:   .ascii  "init\0\0\0\0"
