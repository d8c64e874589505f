// SPDX-License-Identifier: Apache-2.0
/**
 * A fault as a rule: *where* it acts, *when*, and *what* it does. The schemas are the types, the JSON Schema that is
 * published, and the shape that the loader checks (load.ts); README.md has every point and action by example.
 */
import { type Static, type TSchema, Type } from 'typebox'
import { FAULT_ACTIONS } from '../trace/records.ts'

const strict = { additionalProperties: false } as const

/** A number of up to 64 bits: as a number where it is exact, else `0x…`. */
export const ValueSchema = Type.Union([
  Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER }),
  Type.String({ pattern: '^0[xX][0-9a-fA-F]{1,16}$' }),
])
export type Value = Static<typeof ValueSchema>

const value = (description: string) => Type.Union([...ValueSchema.anyOf], { description })
const name = (description: string) => Type.String({ minLength: 1, maxLength: 60, description })
const count = (minimum: number, maximum: number, description: string) => Type.Integer({ minimum, maximum, description })
const smmu = Type.Optional(count(0, 255, 'index of the SMMU; absent: any'))

/** A StreamID, or a device's model or id in the machine (`nvme`, `virtio-blk-pci`). */
const sid = Type.Optional(
  Type.Union([Type.Integer({ minimum: 0, maximum: 0xffff_ffff }), Type.String({ minLength: 1, maxLength: 60 })], {
    description: 'StreamID, or model or id of a device such as nvme',
  }),
)
const RangeSchema = Type.Union(
  [
    ...ValueSchema.anyOf,
    Type.Object({ from: value('first address, bytes'), size: value('bytes') }, { ...strict, title: 'Range' }),
  ],
  { description: 'one address (its 4-KiB page), or from and size' },
)
const address = Type.Optional(RangeSchema)
export type Range = Static<typeof RangeSchema>

const access = {
  register: Type.Optional(
    Type.Union([Type.Integer({ minimum: 0, maximum: 0x1_ffff }), Type.String({ minLength: 1, maxLength: 60 })], {
      description: 'name or 0x offset, e.g. ARM_SMMU_CR0 or CR0; absent: any',
    }),
  ),
  access: Type.Enum(['read', 'write']),
  mask: Type.Optional(value('bits of the value that count')),
  value: Type.Optional(value('only when the value written, or answered, is this one')),
  smmu,
}

export const TABLES = ['ste', 'l1', 'stage2', 'host-ste', 'host-l1', 'cd'] as const
export type Table = (typeof TABLES)[number]
const table = Type.Enum([...TABLES], {
  description:
    'ste, l1, stage2: entry of the shadow stream table, its L1 descriptor, stage-2 descriptor, as the hypervisor writes it; ' +
    "host-ste, host-l1: the host's, as copied; cd: the host's context descriptor, when its stream is configured",
})

export const PAGE_OPERATIONS = [
  'share',
  'unshare',
  'pin',
  'unpin',
  'donate',
  'reclaim',
  'donate-hyp',
  'allocate',
] as const
export type PageOperation = (typeof PAGE_OPERATIONS)[number]

/** Where: one object a point. */
export const WHERE = {
  register: Type.Object(
    { at: Type.Literal('register'), ...access, cpu: Type.Optional(count(0, 0xffff, 'index of the vCPU; absent: any')) },
    { ...strict, description: "the guest's access of the register frame" },
  ),
  hardware: Type.Object(
    { at: Type.Literal('hardware'), ...access },
    { ...strict, description: "the hypervisor's access of the hardware" },
  ),
  command: Type.Object(
    {
      at: Type.Literal('command'),
      command: Type.Optional(name('CMDQ_OP_CFGI_STE, CFGI_STE, …; absent: any')),
      queue: Type.Optional(
        Type.Enum(['host', 'shadow'], {
          description: "host (default): as the hypervisor copies the guest's; shadow: as the hardware gets it",
        }),
      ),
      sid,
      asid: Type.Optional(count(0, 0xffff, 'ASID field')),
      vmid: Type.Optional(count(0, 0xffff, 'VMID field')),
      address,
      leaf: Type.Optional(Type.Boolean()),
      smmu,
    },
    { ...strict, description: 'a command on its way' },
  ),
  table: Type.Object(
    { at: Type.Literal('table'), table, sid, address, smmu },
    {
      ...strict,
      description: 'a table entry that the hypervisor writes or copies; address: input address, for stage2',
    },
  ),
  translate: Type.Object(
    { at: Type.Literal('translate'), sid, address, access: Type.Optional(Type.Enum(['read', 'write'])), smmu },
    { ...strict, description: 'a translation for a device (needs translate mode server)' },
  ),
  event: Type.Object(
    { at: Type.Literal('event'), event: Type.Optional(name('F_TRANSLATION, …; absent: any')), sid, smmu },
    { ...strict, description: 'an event record, before the guest looks at the queue' },
  ),
  pages: Type.Object(
    { at: Type.Literal('pages'), operation: Type.Enum([...PAGE_OPERATIONS]), address },
    { ...strict, description: 'a change of page ownership, or an allocation of hypervisor memory' },
  ),
  transport: Type.Object(
    { at: Type.Literal('transport'), message: Type.Enum(['trap', 'reset', 'translate']) },
    { ...strict, description: 'a request of QEMU, before its answer is sent' },
  ),
  el2: Type.Object(
    { at: Type.Literal('el2'), cpu: Type.Optional(count(0, 0xffff, 'index of the vCPU; absent: any')) },
    { ...strict, description: "EL2 has changed its host's tables and waits, before the policy hears of it" },
  ),
  machine: Type.Object(
    { at: Type.Literal('machine') },
    { ...strict, description: 'no access: `when` alone decides (console, time, after), or "fire now"' },
  ),
} as const satisfies Record<string, TSchema>

export type Point = keyof typeof WHERE
export const POINTS = Object.keys(WHERE) as Point[]

export const WhenSchema = Type.Object(
  {
    nth: Type.Optional(count(1, 1e9, 'only the nth match')),
    skip: Type.Optional(count(0, 1e9, 'matches to pass over')),
    times: Type.Optional(
      Type.Union([count(1, 1e9, 'so many times'), Type.Literal('always')], { description: 'default 1' }),
    ),
    after: Type.Optional(name('only once this rule has fired')),
    console: Type.Optional(
      Type.String({ minLength: 1, maxLength: 200, description: 'only after a console line that matches, RE2 syntax' }),
    ),
    time: Type.Optional(
      Type.Number({ minimum: 0, maximum: 1e7, description: "ms of the guest's clock since its start" }),
    ),
    probability: Type.Optional(
      Type.Number({ minimum: 0, maximum: 1, description: 'of each match; drawn by the seed' }),
    ),
  },
  { ...strict, title: 'When' },
)
export type When = Static<typeof WhenSchema>

export const IRQ_LINES = ['evtq', 'priq', 'cmdSync', 'gerror'] as const
export const GERROR_BITS = [
  'CMDQ_ERR',
  'EVTQ_ABT_ERR',
  'PRIQ_ABT_ERR',
  'MSI_CMDQ_ABT_ERR',
  'MSI_EVTQ_ABT_ERR',
  'MSI_PRIQ_ABT_ERR',
  'MSI_GERROR_ABT_ERR',
  'SFM_ERR',
] as const
export const CERRORS = ['ILL', 'ABT', 'ATC_INV_SYNC'] as const
export const PAGE_ERRORS = ['EPERM', 'EBUSY', 'ENOMEM', 'EFAULT', 'EINVAL', 'ERANGE'] as const

const bitsChange = {
  and: Type.Optional(value('bits that stay')),
  or: Type.Optional(value('bits that are set')),
  xor: Type.Optional(value('bits that are flipped')),
}
const word = Type.Optional(count(0, 7, '64-bit word of the entry that is changed; default 0'))
/** Most input addresses of a rule about stage 2: it looks for the descriptor of each page. */
export const MAX_STAGE2_BYTES = 1 << 28
/** Longest wait that one firing may cause. */
export const MAX_DELAY_MS = 60_000
const ms = (description: string) => count(1, MAX_DELAY_MS, description)

const action = <D extends string, P extends Record<string, TSchema>>(name: D, description: string, properties: P) =>
  Type.Object({ do: Type.Literal(name), ...properties }, { ...strict, description })

/** What: one object an action. */
export const WHAT = {
  set: action('set', 'another value is written, or answered', { value: value('64 or 32 bits') }),
  change: action('change', '(value & and | or) ^ xor; at el2: of the address of each page that EL2 wrote to', {
    ...bitsChange,
    word,
  }),
  freeze: action('freeze', 'reads go on answering what the last one before answered', {}),
  drop: action('drop', 'it does not take place; a command becomes one without effect', {}),
  abort: action('abort', 'external abort; a memory access is refused; a transaction ends without an event', {}),
  postpone: action('postpone', 'the write is carried out, or the policy told, so many traps later', {
    traps: count(1, 1e6, 'traps'),
  }),
  delay: action('delay', 'it takes so much longer', { ms: ms('milliseconds') }),
  duplicate: action('duplicate', 'once more, in the place of the next CMD_SYNC', {}),
  reorder: action('reorder', 'changes places with the command behind it', {}),
  defer: action('defer', 'goes to the place of a later CMD_SYNC', {
    syncs: Type.Optional(count(1, 1e6, 'which one; default 1')),
  }),
  hang: action('hang', 'CONS stands at this command', { ms: Type.Optional(ms('until then; absent: for good')) }),
  early: action('early', 'this CMD_SYNC completes before what stands in front of it, which is deferred', {}),
  cerror: action('cerror', 'consumption stops here: CMDQ_CONS.ERR and GERROR.CMDQ_ERR, until acknowledged', {
    error: Type.Enum([...CERRORS]),
  }),
  fail: action('fail', 'the page operation fails', { error: Type.Enum([...PAGE_ERRORS]) }),
  fault: action('fault', 'the transaction ends in this event', {
    event: name('F_TRANSLATION, F_PERMISSION, F_ADDR_SIZE, F_ACCESS, F_WALK_EABT, C_BAD_STE, …'),
    stage: Type.Optional(Type.Union([Type.Literal(1), Type.Literal(2)], { description: 'default 1' })),
  }),
  redirect: action('redirect', 'wrong output address', {
    address: Type.Optional(value('the page that is given instead')),
    xor: Type.Optional(value('bits of the output address that are flipped')),
  }),
  restrict: action('restrict', 'permissions are removed', { permissions: Type.Enum(['read', 'write', 'none']) }),
  irq: action('irq', 'an interrupt without a cause', {
    line: Type.Enum([...IRQ_LINES]),
    count: Type.Optional(count(1, 10_000, 'so many pulses; default 1')),
  }),
  'lose-irq': action('lose-irq', 'interrupts of the hardware do not arrive', {
    lines: Type.Array(Type.Enum(['evtq', 'priq', 'gerror']), { minItems: 1, maxItems: 3 }),
    ms: Type.Optional(ms('until then, looked at with every trap; absent: for good')),
  }),
  gerror: action('gerror', 'global errors become active, with their interrupt', {
    bits: Type.Array(Type.Enum([...GERROR_BITS]), { minItems: 1, maxItems: 8 }),
    error: Type.Optional(Type.Enum([...CERRORS], { description: 'CMDQ_CONS.ERR, with CMDQ_ERR' })),
  }),
  event: action('event', 'records appear in the event queue, with its interrupt', {
    event: name('F_TRANSLATION, …'),
    sid,
    address: Type.Optional(value('input address')),
    count: Type.Optional(count(1, 1 << 19, 'so many, as far as there is room; default 1')),
    overflow: Type.Optional(Type.Boolean({ description: 'fill the queue and set OVFLG' })),
  }),
  corrupt: action('corrupt', 'bits of a table change where it stands', {
    table: Type.Enum(['ste', 'l1', 'stage2']),
    sid,
    address: Type.Optional(value('input address, for stage2')),
    word,
    ...bitsChange,
  }),
  donate: action('donate', 'pages go to a protected VM', {
    address: Type.Optional(value('of the page; or sid and iova of a page that a device uses')),
    sid,
    iova: Type.Optional(value('input address')),
    size: Type.Optional(value('bytes; default 4096')),
    vm: Type.Optional(count(1, 255, 'default 1')),
  }),
  reclaim: action('reclaim', 'pages come back from a protected VM', {
    address: value('of the page'),
    size: Type.Optional(value('bytes; default 4096')),
    vm: Type.Optional(count(1, 255, 'default 1')),
  }),
  warn: action('warn', 'a hyp warning is forced', { warning: name('code, e.g. HYP_UNMAP') }),
  disconnect: action('disconnect', 'the connection to QEMU is cut', {}),
  malformed: action('malformed', 'QEMU gets a frame that is none', {}),
  kill: action('kill', "the server's trap thread ends at once", {}),
  reset: action('reset', 'the machine is reset', {}),
  pause: action('pause', 'all vCPUs stand still', { ms: ms('milliseconds') }),
  'lose-state': action('lose-state', 'the SMMU loses its registers and caches, as with its power; GBPA aborts', {}),
} as const satisfies Record<string, TSchema>

export type Action = keyof typeof WHAT
/** By their number on the trace. */
export const ACTIONS: readonly Action[] = FAULT_ACTIONS

/** Those that do not alter what takes place at the point, and so may stand at any. */
export const FREE_ACTIONS: ReadonlySet<Action> = new Set<Action>([
  'delay',
  'irq',
  'lose-irq',
  'gerror',
  'event',
  'corrupt',
  'donate',
  'reclaim',
  'warn',
  'disconnect',
  'malformed',
  'kill',
  'reset',
  'pause',
  'lose-state',
])

type Member<T extends Record<string, TSchema>> = { [K in keyof T]: Static<T[K]> }
export type WhereOf = Member<typeof WHERE>
export type WhatOf = Member<typeof WHAT>
export type Where = WhereOf[Point]
export type What = WhatOf[Action]

export const RuleSchema = Type.Object(
  {
    name: Type.String({ pattern: '^[a-z0-9][a-z0-9-]{0,59}$', description: 'small letters, digits and dashes' }),
    where: Type.Union(Object.values(WHERE), { title: 'Where' }),
    when: Type.Optional(WhenSchema),
    what: Type.Union(Object.values(WHAT), { title: 'What' }),
  },
  { ...strict, title: 'Rule' },
)

/** One fault. Registers, commands, events and warnings have Linux's or the specification's names. */
export interface FaultRule {
  readonly name: string
  readonly where: Where
  readonly when?: When
  readonly what: What
}

/** What a session came to, from evidence. */
export const VERDICTS = [
  'unaffected',
  'recovered',
  'io-error',
  'degraded',
  'driver-timeout',
  'guest-oops',
  'guest-panic',
  'guest-hung',
  'hyp-warning',
  'isolation-violation',
  'harness-error',
] as const
export type Verdict = (typeof VERDICTS)[number]
const VerdictSchema = Type.Enum([...VERDICTS])

export const SessionSchema = Type.Object(
  {
    boot: Type.Optional(
      Type.Enum(['fresh', 'snapshot'], { description: 'fresh: for what acts during boot; default snapshot' }),
    ),
    until: Type.Optional(Type.Enum(['mmio', 'cmdq', 'strtab', 'queues', 'nested'])),
    translate: Type.Optional(Type.Enum(['hardware', 'server', 'lockstep'])),
    kernel: Type.Optional(Type.String({ maxLength: 200 })),
    smp: Type.Optional(count(1, 64, 'vCPUs')),
    workload: Type.Optional(Type.String({ maxLength: 200, description: 'of the session runner' })),
    el2: Type.Optional(
      Type.Enum(['pkvm'], {
        description: 'the guest runs as pKVM, on the first kernel with protected VMs, and attacks one; boots fresh',
      }),
    ),
    storm: Type.Optional(count(0, 1_000, 'with el2: protected VMs more, under attack')),
    reconnect: Type.Optional(count(0, 600, 'seconds that the machine waits for a lost server')),
    timeout: Type.Optional(count(1, 86_400, 'seconds')),
  },
  { ...strict, title: 'Session' },
)

export const EntrySchema = Type.Object(
  {
    name: Type.String({ pattern: '^[a-z0-9][a-z0-9-]{0,59}$' }),
    summary: Type.String({ minLength: 1, description: 'what it simulates in real silicon, or which real bug' }),
    expect: Type.Union([VerdictSchema, Type.Array(VerdictSchema, { minItems: 1 })], {
      description: "verdict on Debian's 6.12",
    }),
    why: Type.String({ minLength: 1, description: 'why that verdict' }),
    session: Type.Optional(SessionSchema),
    rules: Type.Array(RuleSchema, { minItems: 1, maxItems: 64 }),
  },
  { ...strict, title: 'CatalogueEntry' },
)

export interface CatalogueEntry {
  readonly name: string
  readonly summary: string
  readonly expect: Verdict | readonly Verdict[]
  readonly why: string
  readonly session?: Static<typeof SessionSchema>
  /** File that it is from; absent: the catalogue. */
  readonly source?: string
  readonly rules: readonly FaultRule[]
}

/** A file: rules; or entries as the catalogue has them. */
export const FileSchema = Type.Union(
  [
    Type.Object({ rules: Type.Array(RuleSchema, { minItems: 1, maxItems: 64 }) }, strict),
    Type.Object({ entries: Type.Array(EntrySchema, { minItems: 1 }) }, strict),
  ],
  { $schema: 'https://json-schema.org/draft/2020-12/schema', title: 'smmu-cosim faults' },
)

/** A rule did what it says. */
export interface Firing {
  readonly rule: string
  /** Of this rule, from 1. */
  readonly n: number
  /** Number of the trap, 0 when it was between traps. */
  readonly trap: number
  /** Guest's virtual clock of the last trap, ns. */
  readonly time: number
  /** In words. */
  readonly what: string
  /** For the control thread to carry out. */
  readonly action?: Extract<What, { do: 'reset' | 'pause' }>
}

/** What is armed, for the trap thread. */
export interface FaultPlan {
  readonly rules: readonly FaultRule[]
  readonly seed: number
}
