#include "textflag.h"

// func clone3(args *cloneArgs, size uintptr, p *program, child uintptr) (pid, errno uintptr)
//
// The kernel keeps R12 and R13 for the child, which begins on the stack that args name and calls the function at child as
// Go's register convention has it: p in R0, and room to spill it above the caller's frame.
TEXT ·clone3(SB), NOSPLIT|NOFRAME, $0-48
	MOVD args+0(FP), R0
	MOVD size+8(FP), R1
	MOVD p+16(FP), R12
	MOVD child+24(FP), R13
	MOVD $435, R8
	SVC
	CBZ  R0, child
	CMN  $4095, R0
	BCS  failed
	MOVD R0, pid+32(FP)
	MOVD ZR, errno+40(FP)
	RET

failed:
	NEG  R0, R0
	MOVD ZR, pid+32(FP)
	MOVD R0, errno+40(FP)
	RET

child:
	SUB  $64, RSP
	MOVD ZR, R29
	MOVD R12, R0
	CALL (R13)
	BRK
