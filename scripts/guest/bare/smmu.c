/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver of the SMMU that is not Linux's, without an operating system (test/qtest/full.test.ts). It does what IHI 0070 allows and
 * Linux does not: a linear stream table that is filled before SMMUEN, base registers by halves, SMMUEN before CMDQEN, queues in one page,
 * CFGI_STE_RANGE, Leaf = 0, TLBI_NH_ALL. An edu device in slot 4 copies memory for it. What was found goes to the UART, a line each:
 * "bare NAME ok", or "bare NAME failed: WHY".
 *
 * EL1, MMU off, caches off: all of memory is Device-nGnRnE.
 */
typedef unsigned int u32;
typedef unsigned long u64;

#define UART    0x09000000UL
#define SMMU    0x09050000UL
#define ECAM    0x4010000000UL
#define EDU     0x10000000UL
#define EDU_SID 0x20u

#define IDR0            0x00
#define IDR2            0x08
#define IDR4            0x10
#define IDR5            0x14
#define AIDR            0x1c
#define CR0             0x20
#define CR0ACK          0x24
#define CR1             0x28
#define CR2             0x2c
#define GBPA            0x44
#define GERROR          0x60
#define GERRORN         0x64
#define STRTAB_BASE     0x80
#define STRTAB_BASE_CFG 0x88
#define CMDQ_BASE       0x90
#define CMDQ_PROD       0x98
#define CMDQ_CONS       0x9c
#define EVTQ_BASE       0xa0
#define EVTQ_PROD       0x100a8
#define EVTQ_CONS       0x100ac

#define SMMUEN 1u
#define EVTQEN 4u
#define CMDQEN 8u

#define CMDQ_LOG2  4
#define EVTQ_LOG2  4
#define SIDS_LOG2  8

#define CFGI_STE   0x03
#define CFGI_RANGE 0x04
#define CFGI_CDS   0x06
#define NH_ALL     0x10
#define S12_VMALL  0x28
#define SYNC       0x46

#define STE_V      1UL
#define ABORT      (0UL << 1)
#define BYPASS     (4UL << 1)
#define STAGE1     (5UL << 1)
#define STAGE2     (6UL << 1)
#define SH_IN      (1UL << 44) /* word 1: SHCFG, use incoming */

#define C_BAD_STE     0x04
#define F_TRANSLATION 0x10

#define BYTES      256u
#define PATTERN(i) (0x5a5a000000000000UL + (i))

static u64 linear[8 << SIDS_LOG2] __attribute__((aligned(64 << SIDS_LOG2)));
/* Both queues and the CD. */
static struct {
    u64 cmdq[2 << CMDQ_LOG2];
    u64 padding[32];
    u64 evtq[4 << EVTQ_LOG2];
    u64 cd[8];
} page __attribute__((aligned(4096)));
static u64 tables[3][512] __attribute__((aligned(4096)));
static u64 source[512] __attribute__((aligned(4096)));
static u64 target[512] __attribute__((aligned(4096)));

static u32 prod, cons;
static u32 failures;

static void put(char c)
{
    *(volatile u32 *)UART = (u32)c;
}

static void say(const char *text)
{
    while (*text)
        put(*text++);
}

static void hex(u64 value)
{
    int shift = 60;

    say("0x");
    while (shift > 0 && !(value >> shift & 15))
        shift -= 4;
    for (; shift >= 0; shift -= 4)
        put("0123456789abcdef"[value >> shift & 15]);
}

static void expect(const char *name, u64 found, u64 expected)
{
    say("bare ");
    say(name);
    if (found == expected) {
        say(" ok\r\n");
        return;
    }
    failures++;
    say(" failed: ");
    hex(found);
    say(" instead of ");
    hex(expected);
    say("\r\n");
}

static u32 read32(u64 offset)
{
    return *(volatile u32 *)(SMMU + offset);
}

static void write32(u64 offset, u32 value)
{
    __asm__ volatile("dsb sy" ::: "memory");
    *(volatile u32 *)(SMMU + offset) = value;
}

/* The high half first, and never both at once. */
static void write_halves(u64 offset, u64 value)
{
    write32(offset + 4, (u32)(value >> 32));
    write32(offset, (u32)value);
}

static u64 read_halves(u64 offset)
{
    return (u64)read32(offset + 4) << 32 | read32(offset);
}

static void enable(u32 cr0)
{
    write32(CR0, cr0);
    for (u32 i = 0; i < 1000 && read32(CR0ACK) != cr0; i++)
        ;
    expect("CR0ACK follows", read32(CR0ACK), cr0);
}

static void command(u64 word0, u64 word1)
{
    u32 at = prod % (1u << CMDQ_LOG2);

    ((volatile u64 *)page.cmdq)[2 * at] = word0;
    ((volatile u64 *)page.cmdq)[2 * at + 1] = word1;
    prod = (prod + 1) % (2u << CMDQ_LOG2);
}

/* @return CMDQ_CONS, once the hardware has got there or has stopped; ERR means something only then */
static u32 submit(void)
{
    u32 at = 0;

    write32(CMDQ_PROD, prod);
    for (u32 i = 0; i < 1000; i++) {
        at = read32(CMDQ_CONS);
        if ((read32(GERROR) ^ read32(GERRORN)) & 1)
            return at;
        at &= 0xfffff;
        if (at == prod)
            break;
    }
    return at;
}

static void sync_to(const char *name)
{
    command(SYNC, 0);
    expect(name, submit(), prod);
}

/* @return the id of the event that came, 0: none. All are taken out. */
static u32 event(void)
{
    u32 id = 0;

    while (cons != (read32(EVTQ_PROD) & 0x7fffffff)) {
        u32 at = cons % (1u << EVTQ_LOG2);

        id = (u32)((volatile u64 *)page.evtq)[4 * at] & 0xff;
        cons = (cons + 1) % (2u << EVTQ_LOG2);
    }
    write32(EVTQ_CONS, cons);
    return id;
}

static void ste(u32 sid, u64 word0, u64 word1)
{
    volatile u64 *entry = linear + 8 * sid;

    entry[0] = 0;
    entry[1] = word1;
    for (u32 i = 2; i < 8; i++)
        entry[i] = 0;
    __asm__ volatile("dsb sy" ::: "memory");
    entry[0] = word0;
}

static void edu64(u64 offset, u64 value)
{
    *(volatile u64 *)(EDU + offset) = value;
}

static void edu_copy(u64 from, u64 to, u64 how)
{
    edu64(0x80, from);
    edu64(0x88, to);
    edu64(0x90, BYTES);
    edu64(0x98, how);
    while (*(volatile u64 *)(EDU + 0x98) & 1)
        ;
}

/* By DMA from one input address to another. @return whether it arrived in `target` */
static u32 copies(u64 from, u64 to)
{
    static u64 turn;
    u32 same = 1;

    turn++;
    for (u32 i = 0; i < BYTES / 8; i++) {
        ((volatile u64 *)source)[i] = PATTERN(turn << 8 | i);
        ((volatile u64 *)target)[i] = 0;
    }
    __asm__ volatile("dsb sy" ::: "memory");
    edu_copy(from, 0x40000, 1);
    edu_copy(0x40000, to, 3);
    for (u32 i = 0; i < BYTES / 8; i++)
        same &= ((volatile u64 *)target)[i] == PATTERN(turn << 8 | i);
    return same;
}

static void map(u32 index, u64 page_address)
{
    ((volatile u64 *)tables[2])[index] = page_address | 0xf43;
}

/* 39 bits of input addresses: the first two pages lead to source and target. */
static void stage1(void)
{
    for (u32 i = 0; i < 512; i++)
        tables[0][i] = tables[1][i] = tables[2][i] = 0;
    tables[0][0] = (u64)tables[1] | 3;
    tables[1][0] = (u64)tables[2] | 3;
    map(0, (u64)source);
    map(1, (u64)target);
    page.cd[0] = 25UL | 1UL << 30 | 1UL << 31 | 2UL << 32 | 1UL << 41 | 1UL << 45 | 1UL << 46 | 1UL << 47 | 1UL << 48;
    page.cd[1] = (u64)tables[0];
    page.cd[2] = 0;
    page.cd[3] = 0xff;
}

/* @param hypervisor memory that no device may reach */
void bare_main(u64 hypervisor)
{
    u64 s = (u64)source, t = (u64)target;

    *(volatile u32 *)(ECAM + (4UL << 15) + 0x10) = (u32)EDU;
    *(volatile u32 *)(ECAM + (4UL << 15) + 0x04) = 6;

    /* What Linux does not look at, or not so. */
    expect("IDR0 without stage 2", read32(IDR0) & 1, 0);
    expect("IDR2 can be read", read32(IDR2) & 0x3ff, 0);
    (void)read32(IDR4);
    expect("AIDR has a version", read32(AIDR) >> 8, 0);
    write32(CR1, 0xd75);
    expect("CR1 reads as written", read32(CR1), 0xd75);
    write32(GBPA, 1u << 31);
    expect("GBPA aborts", read32(GBPA) >> 20, 1);
    expect("a reserved register", read32(0x3000), 0);

    ste(EDU_SID, STE_V | BYPASS, SH_IN);
    write_halves(STRTAB_BASE, (u64)linear);
    expect("STRTAB_BASE by halves", read_halves(STRTAB_BASE), (u64)linear);
    write32(STRTAB_BASE_CFG, SIDS_LOG2);
    write_halves(EVTQ_BASE, (u64)page.evtq | EVTQ_LOG2);
    write_halves(CMDQ_BASE, (u64)page.cmdq | CMDQ_LOG2);
    write32(CMDQ_PROD, 0);
    write32(CMDQ_CONS, 0);
    write32(EVTQ_PROD, 0);
    write32(EVTQ_CONS, 0);
    write32(CR2, 2);
    expect("no DMA while SMMUEN is 0", copies(s, t), 0);
    enable(SMMUEN | EVTQEN);
    expect("an entry from before SMMUEN", copies(s, t), 1);
    expect("without an event", event(), 0);
    enable(SMMUEN | EVTQEN | CMDQEN);

    ste(EDU_SID, STE_V | ABORT, 0);
    command(CFGI_RANGE | (u64)EDU_SID << 32, 7);
    sync_to("CFGI_STE_RANGE");
    expect("abort", copies(s, t), 0);
    expect("abort has no event", event(), 0);

    stage1();
    ste(EDU_SID, STE_V | STAGE1 | (u64)page.cd, SH_IN);
    command(CFGI_STE | (u64)EDU_SID << 32, 0);
    command(CFGI_CDS | (u64)EDU_SID << 32, 0);
    sync_to("CFGI_STE with Leaf = 0");
    expect("stage 1", copies(0, 0x1000), 1);
    map(0, t);
    command(NH_ALL, 0);
    sync_to("TLBI_NH_ALL");
    expect("another page after TLBI_NH_ALL", copies(0, 0x1000), 0);
    expect("no event of it", event(), 0);
    map(0, s);
    command(NH_ALL, 0);
    sync_to("TLBI_NH_ALL");
    expect("a hole of stage 1", copies(0x5000, 0x1000), 0);
    expect("F_TRANSLATION", event(), F_TRANSLATION);

    /* What is not the host's. */
    map(4, hypervisor);
    command(NH_ALL, 0);
    sync_to("TLBI_NH_ALL");
    expect("hypervisor memory through stage 1", copies(0x4000, 0x1000), 0);
    expect("F_TRANSLATION by stage 2", event(), F_TRANSLATION);
    ste(EDU_SID, STE_V | BYPASS, SH_IN);
    command(CFGI_STE | (u64)EDU_SID << 32, 1);
    sync_to("CFGI_STE");
    expect("bypass", copies(s, t), 1);
    expect("hypervisor memory through bypass", copies(hypervisor, t), 0);
    expect("F_TRANSLATION by stage 2", event(), F_TRANSLATION);
    ste(EDU_SID, STE_V | STAGE2, SH_IN);
    command(CFGI_STE | (u64)EDU_SID << 32, 1);
    sync_to("CFGI_STE");
    expect("stage 2 is refused", copies(s, t), 0);
    expect("C_BAD_STE", event(), C_BAD_STE);

    /* A command of an SMMU with stage 2 stops the queue, until it is replaced. */
    {
        u32 at = prod;

        command(S12_VMALL, 0);
        command(SYNC, 0);
        expect("CERROR_ILL", submit(), at | 1u << 24);
        expect("GERROR", (read32(GERROR) ^ read32(GERRORN)) & 1, 1);
        ((volatile u64 *)page.cmdq)[2 * (at % (1u << CMDQ_LOG2))] = SYNC;
        write32(GERRORN, read32(GERROR));
        sync_to("the queue goes on");
    }

    ste(EDU_SID, STE_V | BYPASS, SH_IN);
    command(CFGI_STE | (u64)EDU_SID << 32, 1);
    sync_to("CFGI_STE");
    enable(SMMUEN | EVTQEN);
    expect("DMA without a queue", copies(s, t), 1);
    enable(0);
    expect("nothing passes when it is off", copies(s, t), 0);
    say(failures ? "bare done, failed\r\n" : "bare done\r\n");
}
