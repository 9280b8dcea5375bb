#include "textflag.h"

// entry is where the kernel starts the program: SP points to argc. Go code reads thread-local storage through FS, which
// is given a place first (arch_prctl(ARCH_SET_FS)); then run is called with the stack as execve left it.
TEXT ·entry(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	MOVQ SP, BX
	MOVQ $158, AX
	MOVQ $0x1002, DI
	LEAQ ·threadLocal+64(SB), SI
	SYSCALL
	ANDQ $~15, SP
	SUBQ $64, SP
	MOVQ BX, 0(SP)
	CALL ·run(SB)
	INT  $3

GLOBL ·threadLocal(SB), NOPTR, $128
