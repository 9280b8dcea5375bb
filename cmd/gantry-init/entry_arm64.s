#include "textflag.h"

// entry is where the kernel starts the program: SP points to argc. run is called with the stack as execve left it.
TEXT ·entry(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	MOVD RSP, R19
	MOVD ZR, g
	SUB  $64, RSP
	MOVD R19, 8(RSP)
	CALL ·run(SB)
	BRK
