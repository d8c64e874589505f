// SPDX-License-Identifier: Apache-2.0
/** The machine: life cycle, console, counters; and the names that requests can use. */
import { Type } from 'typebox'
import { enums } from '../../../protocol/messages.ts'
import { PLUGGABLE_NAMES } from '../../machine/comingDevices.ts'
import { DEVICE_NAMES } from '../../machine/devices.ts'
import { MAX_SLOTS } from '../../machine/hotplug.ts'
import { MAX_SMMUS } from '../../machine/qemu.ts'
import { POLICY_NAMES } from '../../policy/load.ts'
import { BBM_LEVELS, GRANULES, POPULATE_MODES, POWER_MODES, SERIES_STEPS, STAGE2_MODES } from '../../policy/policy.ts'
import { EL2_KERNEL } from '../../run/el2.ts'
import { KERNELS } from '../../run/files.ts'
import { DEFAULTS } from '../../run/options.ts'
import { FILE_NAME, Nullable, named, Ref, type View } from './fields.ts'
import type { Routes } from './route.ts'

/** Name under which a policy file that the server was started with is offered. */
export const OWN_POLICY = 'own'

const SIZE = '^[1-9][0-9]{0,4}[MG]$'

export const StartSchema = named(
  'StartOptions',
  Type.Object(
    {
      policy: Type.Optional(
        Type.Enum([...POLICY_NAMES, OWN_POLICY], {
          default: DEFAULTS.policy,
          description: 'own: the file given to serve',
        }),
      ),
      until: Type.Optional(
        Type.Enum([...SERIES_STEPS], { default: DEFAULTS.until, description: 'prefix of the series' }),
      ),
      granule: Type.Optional(
        Type.Enum([...GRANULES], { default: DEFAULTS.granule, description: 'page size of the idmap, bytes' }),
      ),
      blocks: Type.Optional(
        Type.Boolean({ default: false, description: 'RAM in the largest blocks of the idmap that ownership allows' }),
      ),
      bbm: Type.Optional(
        Type.Enum([...BBM_LEVELS], {
          description: 'with blocks: BBM level that is made use of, at most SMMU_IDR3.BBML, which is the default',
        }),
      ),
      power: Type.Optional(
        Type.Enum([...POWER_MODES], {
          description:
            'SMMUs can be switched off and on; with their state lost the host finds one that was reset (reshadow), or notices nothing (keep)',
        }),
      ),
      stage2: Type.Optional(
        Type.Enum([...STAGE2_MODES], {
          default: 'own',
          description: "shared: with el2 pkvm, EL2's own tables for its host are the second stage of devices",
        }),
      ),
      populate: Type.Optional(
        Type.Enum([...POPULATE_MODES], {
          description:
            'with stage2 shared: what EL2 has not mapped yet is mapped ahead (the default), waited for by stalls, or never',
        }),
      ),
      requireIsolation: Type.Optional(Type.Boolean({ default: false })),
      ats: Type.Optional(Type.Boolean({ default: false, description: 'ATS and PRI are let through to the host' })),
      quirks: Type.Optional(
        Type.Array(Type.String({ pattern: '^[a-z0-9-]{1,60}$' }), {
          maxItems: 64,
          uniqueItems: true,
          description: 'known defects that the policy shows, by name: those of GET /info',
        }),
      ),
      panicOnWarn: Type.Optional(Type.Boolean({ default: false })),
      oracle: Type.Optional(
        Type.Boolean({
          default: false,
          description: 'what devices reach is held against who owns the pages; stops where they must not',
        }),
      ),
      // A default of the schema would be filled in, and be the one of a machine with el2 as well.
      kernel: Type.Optional(
        Type.Enum([...KERNELS], {
          description: `of Debian; absent: ${DEFAULTS.kernel}, with el2 pkvm ${EL2_KERNEL}`,
        }),
      ),
      image: Type.Optional(
        Type.String({ pattern: FILE_NAME, description: 'a kernel in the folder of images, instead of `kernel`' }),
      ),
      initrd: Type.Optional(
        Type.String({
          pattern: FILE_NAME,
          description: 'an initramfs in the folder of images; default: the usual one',
        }),
      ),
      nvme: Type.Optional(Type.Boolean({ default: true, description: 'with an NVMe controller' })),
      translate: Type.Optional(
        Type.Enum(Object.keys(enums.translateMode) as (keyof typeof enums.translateMode)[], {
          default: 'hardware',
          description: "who translates for devices: QEMU's model, the server, or both compared",
        }),
      ),
      faults: Type.Optional(
        Type.Array(Type.String({ pattern: '^[a-z0-9][a-z0-9-]{0,59}$' }), {
          maxItems: 16,
          uniqueItems: true,
          description: 'armed from the first trap on: names of GET /faults/catalogue',
        }),
      ),
      seed: Type.Optional(
        Type.Integer({ minimum: 0, maximum: 0xffff_ffff, default: 1, description: 'of everything random in faults' }),
      ),
      memory: Type.Optional(
        Type.String({ pattern: SIZE, default: DEFAULTS.memory, description: 'guest RAM, at most 64G' }),
      ),
      carveout: Type.Optional(
        Type.String({ pattern: SIZE, default: DEFAULTS.carveout, description: 'a multiple of 2M' }),
      ),
      el2: Type.Optional(
        Type.Enum(['none', 'pkvm'], {
          default: 'none',
          description: 'pkvm: the guest runs as pKVM; its workload ends with attacks on a protected VM',
        }),
      ),
      smp: Type.Optional(Type.Integer({ minimum: 1, maximum: 16, default: DEFAULTS.smp })),
      smmus: Type.Optional(
        Type.Integer({
          minimum: 1,
          maximum: MAX_SMMUS,
          default: 1,
          description: 'each in front of a root complex of its own',
        }),
      ),
      slots: Type.Optional(
        Type.Integer({
          minimum: 0,
          maximum: MAX_SLOTS,
          default: 0,
          description: 'free root ports, for devices that are plugged in later',
        }),
      ),
      devices: Type.Optional(
        Type.Array(Type.Enum([...DEVICE_NAMES]), {
          uniqueItems: true,
          description: 'of the workload, beside virtio-blk, nvme, virtio-net and e1000e',
        }),
      ),
      run: Type.Optional(Type.Enum(['shell', 'workload'], { default: 'shell' })),
      bench: Type.Optional(Type.Integer({ minimum: 0, maximum: 100_000, default: 0, description: 'timed reads' })),
      append: Type.Optional(
        Type.String({ pattern: '^[A-Za-z0-9_.,:=/ -]{0,200}$', description: 'words for the kernel command line' }),
      ),
      breakFirst: Type.Optional(Type.Boolean({ default: false, description: 'hold the first trap' })),
    },
    { additionalProperties: false },
  ),
)
/** A machine as the API starts it: every option from a fixed vocabulary, nothing that reaches a shell or a path. */
export type StartOptions = View<typeof StartSchema>

export const HeldSchema = named(
  'HeldTrap',
  Type.Object({
    hit: Type.Object({
      breakpoint: Type.Integer({ description: '0: stopped by a step, or by hand' }),
      phase: Type.Enum(['before', 'after']),
      command: Type.Optional(Type.Array(Type.Integer())),
      warning: Type.Optional(Type.String()),
      event: Type.Optional(Type.Integer()),
      late: Type.Optional(Type.Boolean()),
    }),
    trap: Type.Object({
      seq: Type.Integer(),
      smmu: Type.Integer(),
      cpu: Type.Integer(),
      write: Type.Boolean(),
      offset: Type.Integer(),
      size: Type.Integer(),
      lo: Type.Integer(),
      hi: Type.Integer(),
      time: Type.Number(),
      pcLo: Type.Integer(),
      pcHi: Type.Integer(),
      aborted: Type.Boolean(),
    }),
    where: Type.Optional(Type.String({ description: 'kernel function, once it is known' })),
    callers: Type.Array(Type.String(), {
      description:
        'who called it, the innermost first: function and offset, or the return address before functions are known',
    }),
  }),
)
export type HeldView = View<typeof HeldSchema>

const GdbSchema = Type.Object({
  target: Type.String({ description: 'for "target remote": a Unix socket, or 127.0.0.1 and a port' }),
  symbols: Nullable(
    Type.String({ description: 'file with the symbols; null: there are none, or it is not known where the kernel is' }),
  ),
  command: Type.String({ description: 'to type on the machine of this server' }),
})
/** How gdb can be attached to the guest. */
export type GdbView = View<typeof GdbSchema>

export const STATES = ['off', 'preparing', 'starting', 'running', 'paused', 'held', 'ending'] as const
export type MachineState = (typeof STATES)[number]

/** How far the guest has come. */
export const PHASES = ['off', 'qemu', 'kernel', 'smmu', 'userspace', 'done'] as const
export type Phase = (typeof PHASES)[number]

const Region = Type.Object({ base: Type.String(), size: Type.Integer() })

const HardwareSchema = Type.Object({
  qemu: Type.String(),
  vcpus: Type.Integer(),
  carveout: Region,
  ram: Type.Array(Region),
  smmus: Type.Array(Region),
  devices: Type.Array(
    Type.Object({ smmu: Type.Integer(), sid: Type.Integer(), name: Type.String(), model: Type.String() }),
  ),
})
/** The machine as QEMU described it. */
export type HardwareView = View<typeof HardwareSchema>

const EndSchema = Type.Object({
  outcome: Type.Enum([
    'ok',
    'killed',
    'qemu-died',
    'server-died',
    'hyp-panic',
    'isolation-violation',
    'failed-to-start',
  ]),
  message: Type.String(),
  at: Type.String(),
})
export type EndStatus = View<typeof EndSchema>

export const StatusSchema = named(
  'MachineStatus',
  Type.Object({
    state: Type.Enum([...STATES]),
    phase: Type.Enum([...PHASES]),
    step: Nullable(
      Type.String({ description: 'what set-up is doing in the state preparing, else the last step of the guest' }),
    ),
    options: Nullable(Ref(StartSchema)),
    startedAt: Nullable(Type.String()),
    kernel: Nullable(Type.String()),
    machine: Nullable(HardwareSchema),
    held: Nullable(Ref(HeldSchema)),
    guest: Nullable(
      Type.Enum(['oops', 'hung', 'panic'], { description: 'worst that the kernel of the guest said since its start' }),
    ),
    stalled: Nullable(Type.String({ description: 'what the guest waits for in vain, for 30 s by now' })),
    notRecorded: Nullable(Type.String({ description: 'why nothing is recorded: the disk is full, for example' })),
    breaking: Type.Boolean({ description: 'the next trap will be held' }),
    end: Nullable(EndSchema),
    run: Type.Integer({ description: 'machines started so far' }),
  }),
)
export type MachineStatus = View<typeof StatusSchema>

const Quantiles = Type.Object({ p50: Type.Number(), p90: Type.Number(), p99: Type.Number(), max: Type.Number() })
const Count = Type.Integer()
const Verdicts = { kept: Count, rewritten: Count, dropped: Count, own: Count }

export const CountersSchema = named(
  'Counters',
  Type.Object({
    traps: Count,
    reads: Count,
    writes: Count,
    predicted: Type.Integer({ description: 'reads that QEMU answered by itself; they are among the traps' }),
    aborted: Count,
    hardwareReads: Count,
    hardwareWrites: Count,
    gerrors: Count,
    guardFaults: Count,
    resets: Count,
    breakpoints: Count,
    power: Type.Object(
      { off: Count, on: Count, refused: Count },
      { description: 'SMMUs that were switched, and requests for it that were refused' },
    ),
    lost: Type.Integer({ description: 'records that the full ring lost, of all machines' }),
    refused: Type.Integer({ description: 'records that the disk refused, of all machines' }),
    latencyUs: Quantiles,
    serverUs: Quantiles,
    smmus: Type.Array(
      Type.Object({ smmu: Count, reads: Count, writes: Count, predicted: Count, commands: Type.Object(Verdicts) }),
      { description: 'of each SMMU; predicted: of the reads, those that QEMU answered by itself' },
    ),
    registers: Type.Array(Type.Object({ register: Type.String(), offset: Count, reads: Count, writes: Count })),
    commands: Type.Array(
      Type.Object({
        opcode: Count,
        command: Type.String(),
        ...Verdicts,
      }),
    ),
    warnings: Type.Array(Type.Object({ code: Type.String(), expected: Type.Boolean(), count: Count })),
    events: Type.Array(Type.Object({ name: Type.String(), count: Count })),
    histogram: Type.Array(Type.Array(Type.Number()), { description: "server's time: [ns, count]" }),
  }),
)
/** Everything counted. */
export type CountersView = View<typeof CountersSchema>

const RateSchema = Type.Object({
  run: Type.Integer({ description: 'number of the machine' }),
  at: Type.Number({ description: 'ms since 1970' }),
  rate: Type.Number({ description: 'traps a second since the point before' }),
})
/** Traps a second at one moment. */
export type RatePoint = View<typeof RateSchema>

/** QMP commands that are passed on. */
export const QMP_COMMANDS = [
  'query-status',
  'query-version',
  'query-cpus-fast',
  'query-block',
  'query-blockstats',
  'query-chardev',
  'query-pci',
  'query-memory-size-summary',
  'query-uuid',
  'query-name',
] as const
export type QmpCommand = (typeof QMP_COMMANDS)[number]

const InfoSchema = Type.Object({
  version: Type.String(),
  policies: Type.Array(Type.String()),
  stages: Type.Array(Type.String()),
  kernels: Type.Array(Type.String()),
  images: Type.Array(Type.String(), { description: 'files that may be a kernel or an initramfs' }),
  translate: Type.Array(Type.String()),
  qmp: Type.Array(Type.String()),
  registers: Type.Array(
    Type.Object({ name: Type.String(), offset: Type.Integer(), bits: Type.Integer(), meaning: Type.String() }),
  ),
  commands: Type.Array(Type.String()),
  events: Type.Array(Type.String()),
  hardware: Type.Array(Type.Object({ name: Type.String(), meaning: Type.String() }), {
    description: 'what hardware of an attack may be besides QEMU’s model',
  }),
  devices: Type.Array(Type.Object({ name: Type.String(), what: Type.String() }), {
    description: 'devices that a machine may have beside the usual four',
  }),
  quirks: Type.Array(
    Type.Object({
      policy: Type.String(),
      name: Type.String(),
      versions: Type.String({ description: 'of the original that have it' }),
      effect: Type.String(),
    }),
    { description: 'known defects that a policy can be made to show' },
  ),
  warnings: Type.Array(Type.Object({ code: Type.String(), section: Type.String(), meaning: Type.String() })),
})
export type Info = View<typeof InfoSchema>

const PluggedSchema = Type.Object({
  name: Type.String({ description: 'its id, and its name wherever its stream is shown' }),
  device: Type.Enum([...PLUGGABLE_NAMES]),
  slot: Type.Integer(),
})
/** A device in a slot. */
export type PluggedView = View<typeof PluggedSchema>

const action = <const I extends string, const S extends string>(id: I, summary: S) =>
  ({ id, tag: 'machine', summary, answer: Ref(StatusSchema), problems: [409] }) as const

export const lifecycle = {
  'GET /info': {
    id: 'getInfo',
    tag: 'server',
    summary: 'Names that requests can use: policies, registers, commands, events, warnings',
    answer: InfoSchema,
  },
  'GET /machine': {
    id: 'getMachine',
    tag: 'machine',
    summary: 'What the machine is doing',
    answer: Ref(StatusSchema),
  },
  'POST /machine/start': {
    id: 'startMachine',
    tag: 'machine',
    summary: 'Start a machine',
    description: 'Answers when QEMU runs. Set-up is run first if it has not been yet.',
    body: Ref(StartSchema),
    answer: Ref(StatusSchema),
    problems: [409, 422],
  },
  'POST /machine/pause': action('pauseMachine', 'Stop the vCPUs'),
  'POST /machine/resume': action('resumeMachine', 'Let the vCPUs run again'),
  'POST /machine/reset': action('resetMachine', 'Reset the machine'),
  'POST /machine/power-off': action('powerOffMachine', 'Press the power button; a guest that listens shuts down'),
  'POST /machine/kill': action('killMachine', 'End QEMU now'),
  'POST /machine/gdb': {
    id: 'openGdb',
    tag: 'machine',
    summary: 'Let gdb attach to the guest',
    description:
      'Also while a trap is held, now or later: its vCPU stops in front of the instruction then. gdb goes on when the trap is released.',
    body: Type.Object(
      {
        port: Type.Optional(
          Type.Integer({
            minimum: 1,
            maximum: 65_535,
            description: 'of the loopback interface, for any user of the machine; absent: a Unix socket',
          }),
        ),
      },
      { additionalProperties: false },
    ),
    answer: GdbSchema,
    problems: [409],
  },
  'POST /machine/qmp': {
    id: 'executeQmp',
    tag: 'machine',
    summary: 'A QMP query',
    body: Type.Object({ command: Type.Enum([...QMP_COMMANDS]) }, { additionalProperties: false }),
    answer: Type.Object({ return: Type.Unknown() }),
    problems: [409],
  },
  'GET /machine/devices': {
    id: 'listPluggedDevices',
    tag: 'machine',
    summary: 'Devices that were plugged in while the machine ran',
    answer: Type.Object({ devices: Type.Array(PluggedSchema) }),
  },
  'POST /machine/devices': {
    id: 'plugDevice',
    tag: 'machine',
    summary: 'Plug a device into a free slot',
    description: 'A disk is empty and has 8 MiB; a card has a network of its own.',
    body: Type.Object({ device: Type.Enum([...PLUGGABLE_NAMES]) }, { additionalProperties: false }),
    answer: PluggedSchema,
    problems: [409],
  },
  'DELETE /machine/devices/:name': {
    id: 'unplugDevice',
    tag: 'machine',
    summary: 'Unplug a device',
    description: 'The guest is asked to let go of it, which takes Linux 5 s.',
    params: Type.Object({ name: Type.String({ pattern: '^[a-z0-9.-]{1,40}$' }) }, { additionalProperties: false }),
    problems: [409],
  },
  'GET /machine/console': {
    id: 'getConsole',
    tag: 'machine',
    summary: "The guest's serial console, as far as it is kept",
    answer: Type.Object({ text: Type.String(), next: Type.Integer() }),
  },
  'POST /machine/console': {
    id: 'typeIntoConsole',
    tag: 'machine',
    summary: 'Type into the serial console',
    body: Type.Object({ text: Type.String({ minLength: 1, maxLength: 4096 }) }, { additionalProperties: false }),
    problems: [409],
  },
  'GET /machine/rates': {
    id: 'getRates',
    tag: 'machine',
    summary: 'Traps a second in the last 20 minutes in which a machine ran, two points a second',
    answer: Type.Object({ points: Type.Array(RateSchema) }),
  },
  'GET /counters': {
    id: 'getCounters',
    tag: 'machine',
    summary: 'Everything that is counted',
    answer: Ref(CountersSchema),
  },
} as const satisfies Routes
