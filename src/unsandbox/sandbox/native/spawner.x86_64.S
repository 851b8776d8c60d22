# A function that makes a sandbox of a fork of the zygote: it forks a process that shares the zygote's memory, as
# vfork(2) does, and carries out a list of system calls in it. See zygote/lockdown.py, which writes the list.
#
# Its argument is the address of 64-bit words: the flags of clone(2); two words that it writes to, the address of
# a call that failed and a descriptor of the process; then for each call its number, five arguments, and for a
# fork the value that the function returns in the child, else 0. When a call fails, the result takes the place of
# the flags. It returns the number of the process, or an error; and, in a child of a fork in the list, the value
# named there.
#
# Assembled by scripts/assemble.py, which defines HEADER_WORDS and STEP_WORDS.

        .set    SYS_clone, 56
        .set    SYS_exit_group, 231

        .set    flags, 0                # of the list
        .set    failed_call, 8
        .set    pidfd, 16
        .set    calls, 8 * HEADER_WORDS
        .set    number, 0               # of a call
        .set    argument_1, 8
        .set    argument_2, 16
        .set    argument_3, 24
        .set    argument_4, 32
        .set    argument_5, 40
        .set    in_child, 48
        .set    call_bytes, 8 * STEP_WORDS

        push    %rbx
        mov     %rdi, %r9

        # clone(flags, 0, &pidfd, 0, 0)
        mov     $SYS_clone, %eax
        mov     (%r9), %rdi
        xor     %esi, %esi
        lea     pidfd(%r9), %rdx
        xor     %r10d, %r10d
        xor     %r8d, %r8d
        syscall
        # The caller waits here until the child is another program, or gone.
        test    %rax, %rax
        jnz     return
        lea     calls(%r9), %rbx

next:   mov     (%rbx), %rax
        mov     argument_1(%rbx), %rdi
        mov     argument_2(%rbx), %rsi
        mov     argument_3(%rbx), %rdx
        mov     argument_4(%rbx), %r10
        mov     argument_5(%rbx), %r8
        syscall
        test    %rax, %rax
        js      failed
        mov     in_child(%rbx), %rcx
        test    %rcx, %rcx
        jz      done
        test    %rax, %rax
        jnz     done

        # The child of a fork, in its own copy of the memory.
        mov     %rcx, %rax
return: pop     %rbx
        ret

done:   add     $call_bytes, %rbx
        jmp     next

failed: mov     %rax, (%r9)
        mov     %rbx, failed_call(%r9)
        # exit_group(1)
        mov     $SYS_exit_group, %eax
        mov     $1, %edi
        syscall
