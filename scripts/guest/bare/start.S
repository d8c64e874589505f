/* SPDX-License-Identifier: Apache-2.0 */
/* An arm64 Image (Documentation/arch/arm64/booting.rst) that calls bare_main and powers off. */
#define SYSTEM_OFF  0x84000008
#define RAM         0x40000000

    .section .head, "ax"
    .global _start
_start:
    b       begin
    .long   0
    .quad   0x80000                 /* text_offset */
    .quad   image_size
    .quad   0x2                     /* little-endian, pages of 4 KiB */
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

begin:                              /* x0: the device tree, of which nothing is needed */
    adrp    x1, stack_top
    add     x1, x1, :lo12:stack_top
    mov     sp, x1
    ldr     x0, =HYPERVISOR
    bl      bare_main
    ldr     x0, =SYSTEM_OFF
    hvc     #0
    b       .
    .ltorg
