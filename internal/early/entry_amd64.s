#include "textflag.h"

// entry is where the kernel starts the program. SP points to argc, the arguments, nil, the environment, nil, the auxiliary
// vector. It moves what is before the second nil down by two words, puts the variable there, twice because the stack is aligned
// to 16 bytes, and goes on to the runtime's own entry, which keeps the first of two values.
TEXT ·entry(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	MOVQ SP, SI
	SUBQ $16, SP
	MOVQ SP, DI
	MOVQ 0(SI), CX
	ADDQ $2, CX
	CLD
	REP; MOVSQ
environment:
	MOVQ 0(SI), AX
	TESTQ AX, AX
	JZ   end
	MOVQ AX, 0(DI)
	ADDQ $8, SI
	ADDQ $8, DI
	JMP  environment
end:
	LEAQ ·variable(SB), AX
	MOVQ AX, 0(DI)
	MOVQ AX, 8(DI)
	JMP  _rt0_amd64_linux(SB)

DATA ·variable+0(SB)/8, $"GOMAXPRO"
DATA ·variable+8(SB)/8, $"CS=01\x00\x00\x00"
GLOBL ·variable(SB), RODATA|NOPTR, $16

// func grow()
TEXT ·grow(SB), $28672-0
	RET
