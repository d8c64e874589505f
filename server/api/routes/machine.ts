// SPDX-License-Identifier: Apache-2.0
import { Type } from 'typebox'
import { HYP_WARNINGS } from '../../hypervisor/pkvm/warnings.ts'
import { SERIES_STEPS } from '../../policy/policy.ts'
import { COMMAND_NAMES, EVENT_NAMES } from '../../smmu/names.ts'
import { REGISTERS } from '../../smmu/registers.ts'
import type { Api } from '../app.ts'
import { KERNELS, OWN_POLICY } from '../launch.ts'
import { type MachineManager, QMP_COMMANDS, snapshot } from '../machine.ts'
import { problems } from '../problems.ts'

const tags = ['machine']

const HeldSchema = Type.Object(
  {
    hit: Type.Object({
      breakpoint: Type.Integer({ description: '0: stopped by a step, or by hand' }),
      phase: Type.Enum(['before', 'after']),
      command: Type.Optional(Type.Array(Type.Integer())),
      warning: Type.Optional(Type.Integer()),
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
  },
  { $id: 'HeldTrap', title: 'HeldTrap' },
)

export const StatusSchema = Type.Object(
  {
    state: Type.Enum(['off', 'preparing', 'starting', 'running', 'paused', 'held', 'ending']),
    phase: Type.Enum(['off', 'qemu', 'kernel', 'smmu', 'userspace', 'done']),
    step: Type.Union([Type.String(), Type.Null()]),
    options: Type.Union([Type.Ref('StartOptions'), Type.Null()]),
    startedAt: Type.Union([Type.String(), Type.Null()]),
    kernel: Type.Union([Type.String(), Type.Null()]),
    machine: Type.Union([
      Type.Object({
        qemu: Type.String(),
        vcpus: Type.Integer(),
        carveout: Type.Object({ base: Type.String(), size: Type.Integer() }),
        ram: Type.Array(Type.Object({ base: Type.String(), size: Type.Integer() })),
        smmus: Type.Array(Type.Object({ base: Type.String(), size: Type.Integer() })),
        devices: Type.Array(
          Type.Object({ smmu: Type.Integer(), sid: Type.Integer(), name: Type.String(), model: Type.String() }),
        ),
      }),
      Type.Null(),
    ]),
    held: Type.Union([Type.Ref('HeldTrap'), Type.Null()]),
    breaking: Type.Boolean({ description: 'the next trap will be held' }),
    end: Type.Union([
      Type.Object({
        outcome: Type.Enum(['ok', 'killed', 'qemu-died', 'server-died', 'hyp-panic', 'failed-to-start']),
        message: Type.String(),
        at: Type.String(),
      }),
      Type.Null(),
    ]),
    run: Type.Integer(),
  },
  { $id: 'MachineStatus', title: 'MachineStatus' },
)

const Quantiles = Type.Object({ p50: Type.Number(), p90: Type.Number(), p99: Type.Number(), max: Type.Number() })
const Count = Type.Integer()

const CountersSchema = Type.Object(
  {
    traps: Count,
    reads: Count,
    writes: Count,
    aborted: Count,
    hardwareReads: Count,
    hardwareWrites: Count,
    gerrors: Count,
    guardFaults: Count,
    resets: Count,
    breakpoints: Count,
    lost: Count,
    latencyUs: Quantiles,
    serverUs: Quantiles,
    registers: Type.Array(Type.Object({ register: Type.String(), offset: Count, reads: Count, writes: Count })),
    commands: Type.Array(
      Type.Object({
        opcode: Count,
        command: Type.String(),
        kept: Count,
        rewritten: Count,
        dropped: Count,
        own: Count,
      }),
    ),
    warnings: Type.Array(Type.Object({ code: Type.String(), expected: Type.Boolean(), count: Count })),
    events: Type.Array(Type.Object({ name: Type.String(), count: Count })),
    histogram: Type.Array(Type.Array(Type.Number()), { description: "server's time: [ns, count]" }),
  },
  { $id: 'Counters', title: 'Counters' },
)

const ACTIONS = {
  pause: 'Stop the vCPUs',
  resume: 'Let the vCPUs run again',
  reset: 'Reset the machine',
  'power-off': 'Press the power button; a guest that listens shuts down',
  kill: 'End QEMU now',
} as const

export function machineRoutes(api: Api, manager: MachineManager, version: string): void {
  for (const schema of [HeldSchema, StatusSchema, CountersSchema]) api.addSchema(schema)
  const Status = Type.Ref('MachineStatus')

  api.get(
    '/info',
    {
      schema: {
        tags: ['server'],
        summary: 'The words that requests are made of',
        response: {
          200: Type.Object({
            version: Type.String(),
            policies: Type.Array(Type.String()),
            stages: Type.Array(Type.String()),
            kernels: Type.Array(Type.String()),
            qmp: Type.Array(Type.String()),
            registers: Type.Array(
              Type.Object({
                name: Type.String(),
                offset: Type.Integer(),
                bits: Type.Integer(),
                meaning: Type.String(),
              }),
            ),
            commands: Type.Array(Type.String()),
            events: Type.Array(Type.String()),
            warnings: Type.Array(Type.Object({ code: Type.String(), section: Type.String(), meaning: Type.String() })),
          }),
          ...problems(),
        },
      },
    },
    async () => ({
      version,
      policies: ['pkvm', 'passthrough', ...(manager.hasOwnPolicy ? [OWN_POLICY] : [])],
      stages: [...SERIES_STEPS],
      kernels: [...KERNELS],
      qmp: [...QMP_COMMANDS],
      registers: REGISTERS.map(({ name, offset, bits, meaning }) => ({ name, offset, bits, meaning })),
      commands: COMMAND_NAMES,
      events: EVENT_NAMES,
      warnings: HYP_WARNINGS.map(({ code, section, meaning }) => ({ code, section, meaning })),
    }),
  )

  api.get(
    '/machine',
    { schema: { tags, summary: 'What the machine is doing', response: { 200: Status, ...problems() } } },
    async () => manager.status() as never,
  )

  api.post(
    '/machine/start',
    {
      schema: {
        tags,
        summary: 'Start a machine',
        description: 'Answers when QEMU runs; set-up that is still missing is done first.',
        body: Type.Ref('StartOptions'),
        response: { 200: Status, ...problems(409, 422) },
      },
    },
    async request => {
      await manager.start(request.body as never)
      return manager.status() as never
    },
  )

  for (const [action, summary] of Object.entries(ACTIONS)) {
    api.post(
      `/machine/${action}`,
      { schema: { tags, summary, response: { 200: Status, ...problems(409) } } },
      async () => {
        if (action === 'pause') await manager.pause()
        else if (action === 'resume') await manager.resume()
        else if (action === 'reset') await manager.reset()
        else if (action === 'power-off') await manager.powerOff()
        else await manager.kill()
        return manager.status() as never
      },
    )
  }

  api.post(
    '/machine/qmp',
    {
      schema: {
        tags,
        summary: 'A QMP query',
        body: Type.Object({ command: Type.Enum([...QMP_COMMANDS]) }, { additionalProperties: false }),
        response: { 200: Type.Object({ return: Type.Unknown() }), ...problems(409) },
      },
    },
    async request => ({ return: await manager.qmp(request.body.command) }),
  )

  api.get(
    '/machine/console',
    {
      schema: {
        tags,
        summary: "The guest's serial console, as far as it is kept",
        response: { 200: Type.Object({ text: Type.String(), next: Type.Integer() }), ...problems() },
      },
    },
    async () => {
      const { items, next } = manager.console.read(0, Number.POSITIVE_INFINITY, undefined)
      return { text: items.map(({ text }) => text).join(''), next }
    },
  )

  api.post(
    '/machine/console',
    {
      schema: {
        tags,
        summary: 'Type into the serial console',
        body: Type.Object({ text: Type.String({ minLength: 1, maxLength: 4096 }) }, { additionalProperties: false }),
        response: { 204: Type.Null(), ...problems(409) },
      },
    },
    async (request, reply) => {
      manager.type(request.body.text)
      return reply.code(204).send(null)
    },
  )

  api.get(
    '/counters',
    {
      schema: {
        tags,
        summary: 'Everything that is counted',
        response: { 200: Type.Ref('Counters'), ...problems() },
      },
    },
    async () => snapshot(manager) as never,
  )
}
