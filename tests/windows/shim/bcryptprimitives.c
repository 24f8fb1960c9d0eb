/*
 * bcryptprimitives.dll for tests under Wine 8, which lacks it: Rust's standard library takes its random numbers from
 * ProcessPrng there. This one passes the call on to SystemFunction036 (RtlGenRandom, advapi32). It lies beside test
 * copies of the programs and is never shipped: Windows has its own since Windows 10.
 */
#include <windows.h>

BOOLEAN NTAPI SystemFunction036(PVOID buffer, ULONG length);

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T length)
{
    while (length > 0) {
        ULONG piece = length > 0x1000000 ? 0x1000000 : (ULONG)length;
        if (!SystemFunction036(data, piece))
            return FALSE;
        data += piece;
        length -= piece;
    }
    return TRUE;
}
