#include "textflag.h"

// entry is where the kernel starts the program; see entry_amd64.s.
TEXT ·entry(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	MOVD RSP, R1
	SUB  $16, RSP
	MOVD RSP, R2
	MOVD 0(R1), R3
	ADD  $2, R3
arguments:
	MOVD.P 8(R1), R4
	MOVD.P R4, 8(R2)
	SUB    $1, R3
	CBNZ   R3, arguments
environment:
	MOVD 0(R1), R4
	CBZ  R4, end
	ADD  $8, R1
	MOVD.P R4, 8(R2)
	B    environment
end:
	MOVD $·variable(SB), R4
	MOVD R4, 0(R2)
	MOVD R4, 8(R2)
	B    _rt0_arm64_linux(SB)

DATA ·variable+0(SB)/8, $"GOMAXPRO"
DATA ·variable+8(SB)/8, $"CS=01\x00\x00\x00"
GLOBL ·variable(SB), RODATA|NOPTR, $16

// func grow()
TEXT ·grow(SB), $28672-0
	RET
