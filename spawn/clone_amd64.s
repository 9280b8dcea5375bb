#include "textflag.h"

// func clone3(args *cloneArgs, size uintptr, p *program, child uintptr) (pid, errno uintptr)
//
// The kernel keeps R12 and R13 for the child, which begins on the stack that args name and calls the function at child as
// Go's register convention has it: p in AX, zero in X15, and room to spill the argument above the return address.
TEXT ·clone3(SB), NOSPLIT|NOFRAME, $0-48
	MOVQ args+0(FP), DI
	MOVQ size+8(FP), SI
	MOVQ p+16(FP), R12
	MOVQ child+24(FP), R13
	MOVQ $435, AX
	SYSCALL
	TESTQ AX, AX
	JZ   child
	CMPQ AX, $-4095
	JCC  failed
	MOVQ AX, pid+32(FP)
	MOVQ $0, errno+40(FP)
	RET

failed:
	NEGQ AX
	MOVQ $0, pid+32(FP)
	MOVQ AX, errno+40(FP)
	RET

child:
	SUBQ  $64, SP
	XORL  BP, BP
	XORPS X15, X15
	MOVQ  R12, AX
	CALL  R13
	INT   $3
