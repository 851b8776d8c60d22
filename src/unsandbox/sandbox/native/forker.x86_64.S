# A function that forks as vfork(2) does: the child shares the caller's memory, and the caller waits until the child
# is another program or gone. Then the caller ends, with status 0, so that it never returns on a stack that the
# child has used.
#
# Its argument is the address of a 32-bit word for the number of the child. It returns 0 in the child, and an error
# where there is no child.
#
# Assembled by scripts/assemble.py.

        .set    SYS_clone, 56
        .set    SYS_exit_group, 231
        .set    FLAGS, 0x104111         # CLONE_PARENT_SETTID | CLONE_VFORK | CLONE_VM, and SIGCHLD at its end

        # clone(FLAGS, 0, number, 0, 0)
        mov     %rdi, %rdx
        mov     $SYS_clone, %eax
        mov     $FLAGS, %edi
        xor     %esi, %esi
        xor     %r10d, %r10d
        xor     %r8d, %r8d
        syscall
        test    %rax, %rax
        jle     return
        mov     $SYS_exit_group, %eax
        xor     %edi, %edi
        syscall
return: ret
