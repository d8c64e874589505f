// SPDX-License-Identifier: Apache-2.0
import { type Static, Type } from 'typebox'
import { HYP_WARNINGS } from '../../hypervisor/pkvm/warnings.ts'
import { warningByCode } from '../../policy/warnings.ts'
import { opcodeName } from '../../smmu/commands.ts'
import { eventName } from '../../smmu/events.ts'
import { commandNumber, eventNumber, registerOffset } from '../../smmu/names.ts'
import { registerName } from '../../smmu/registers.ts'
import { type Breakpoint, type BreakpointMatch, type BreakpointSpec, MAX_BREAKPOINTS } from '../../trap/breakpoints.ts'
import type { Api } from '../app.ts'
import { halves, NumberText, parseBig } from '../hex.ts'
import type { MachineManager } from '../machine.ts'
import { Problem, problems } from '../problems.ts'

const tags = ['breakpoints']

const Name = (description: string) => Type.String({ minLength: 1, maxLength: 60, description })

export const BreakpointBody = Type.Object(
  {
    on: Type.Enum(['register', 'command', 'stream', 'address', 'warning', 'event']),
    register: Type.Optional(Name('on register: name or 0x offset; absent: any')),
    access: Type.Optional(Type.Enum(['read', 'write', 'any'], { description: 'on register; default any' })),
    value: Type.Optional(NumberText('on register: only this value')),
    mask: Type.Optional(NumberText('on register: bits of the value that count')),
    command: Type.Optional(Name('on command: name, e.g. CFGI_STE; absent: any')),
    sid: Type.Optional(Type.Integer({ minimum: 0, maximum: 0xffff_ffff, description: 'on stream' })),
    base: Type.Optional(NumberText('on address: start of the range')),
    size: Type.Optional(Type.Integer({ minimum: 1, maximum: 2 ** 52, description: 'on address: bytes; default 4096' })),
    warning: Type.Optional(Name('on warning: code; absent: any unexpected one')),
    event: Type.Optional(Name('on event: name, e.g. F_TRANSLATION; absent: any')),
    smmu: Type.Optional(Type.Integer({ minimum: 0, maximum: 255 })),
    skip: Type.Optional(Type.Integer({ minimum: 0, maximum: 1_000_000_000, description: 'matches to pass over' })),
    once: Type.Optional(Type.Boolean({ description: 'removed by its first hit' })),
    enabled: Type.Optional(Type.Boolean()),
  },
  { $id: 'BreakpointBody', title: 'BreakpointBody', additionalProperties: false },
)
type Body = Static<typeof BreakpointBody>

const BreakpointSchema = Type.Object(
  {
    id: Type.Integer(),
    on: Type.String(),
    text: Type.String({ description: 'what it waits for' }),
    smmu: Type.Union([Type.Integer(), Type.Null()]),
    skip: Type.Integer(),
    once: Type.Boolean(),
    enabled: Type.Boolean(),
    matches: Type.Integer(),
  },
  { $id: 'Breakpoint', title: 'Breakpoint' },
)

function known(kind: string, name: string, number: number | undefined): number {
  if (number === undefined) throw new Problem(422, `no ${kind} ${name}`)
  return number
}

function matchOf(body: Body): BreakpointMatch {
  switch (body.on) {
    case 'register': {
      const { register, access = 'any', value, mask } = body
      const pair = (text: string): readonly [number, number] => {
        const big = parseBig(text)
        if (big >= 1n << 64n) throw new Problem(422, `${text} has more than 64 bits`)
        const { lo, hi } = halves(big)
        return [lo, hi]
      }
      return {
        on: 'register',
        access,
        ...(register !== undefined && { offset: known('register', register, registerOffset(register)) }),
        ...(value !== undefined && { want: pair(value) }),
        ...(mask !== undefined && { mask: pair(mask) }),
      }
    }
    case 'command': {
      const { command } = body
      return command === undefined
        ? { on: 'command' }
        : { on: 'command', opcode: known('command', command, commandNumber(command)) }
    }
    case 'stream':
      if (body.sid === undefined) throw new Problem(422, 'on stream: sid is needed')
      return { on: 'stream', sid: body.sid }
    case 'address':
      if (body.base === undefined) throw new Problem(422, 'on address: base is needed')
      return { on: 'address', base: Number(parseBig(body.base)), size: body.size ?? 4096 }
    case 'warning': {
      const { warning } = body
      return warning === undefined
        ? { on: 'warning' }
        : { on: 'warning', warning: known('warning', warning, warningByCode(HYP_WARNINGS, warning)?.id) }
    }
    case 'event': {
      const { event } = body
      return event === undefined ? { on: 'event' } : { on: 'event', event: known('event', event, eventNumber(event)) }
    }
  }
}

const hex = (value: number): string => `0x${value.toString(16)}`
const wide = ([lo, hi]: readonly [number, number]): string => `0x${((BigInt(hi) << 32n) | BigInt(lo)).toString(16)}`

export function describeMatch(match: BreakpointMatch): string {
  switch (match.on) {
    case 'register': {
      const name = match.offset === undefined ? 'any register' : registerName(match.offset)
      const access = match.access === 'any' ? 'access to' : `${match.access} of`
      const mask = match.mask ? ` & ${wide(match.mask)}` : ''
      return `${access} ${name}${match.want ? ` with value${mask} = ${wide(match.want)}` : ''}`
    }
    case 'command':
      return match.opcode === undefined ? 'any command' : `command ${opcodeName(match.opcode)}`
    case 'stream':
      return `StreamID ${hex(match.sid)} in a command or an event`
    case 'address':
      return `address ${hex(match.base)} to ${hex(match.base + match.size)} in a command or an event`
    case 'warning':
      return match.warning === undefined
        ? 'any unexpected hyp warning'
        : `hyp warning ${HYP_WARNINGS[match.warning - 1]?.code ?? match.warning}`
    case 'event':
      return match.event === undefined ? 'any event' : `event ${eventName(match.event)}`
  }
}

const show = ({ id, match, smmu, skip, once, enabled, matches }: Breakpoint) => ({
  id,
  on: match.on,
  text: describeMatch(match),
  smmu: smmu ?? null,
  skip,
  once,
  enabled,
  matches,
})

const Id = Type.Object({ id: Type.Integer({ minimum: 1 }) })

export function breakpointRoutes(api: Api, manager: MachineManager): void {
  api.addSchema(BreakpointBody)
  api.addSchema(BreakpointSchema)
  const One = Type.Ref('Breakpoint')

  api.get(
    '/breakpoints',
    { schema: { tags, summary: 'All breakpoints', response: { 200: Type.Array(One), ...problems() } } },
    async () => (await manager.breakpoints()).map(show) as never,
  )

  api.post(
    '/breakpoints',
    {
      schema: {
        tags,
        summary: 'Set a breakpoint',
        description:
          'A hit holds the trap and with it the vCPU, for as long as you want. The clock of the guest goes on: its timeouts are yours to mind.',
        body: Type.Ref('BreakpointBody'),
        response: { 201: One, ...problems(409, 422) },
      },
    },
    async (request, reply) => {
      const body = request.body as Body
      if ((await manager.breakpoints()).length >= MAX_BREAKPOINTS) {
        throw new Problem(409, `there are ${MAX_BREAKPOINTS} breakpoints already`)
      }
      const spec: BreakpointSpec = {
        match: matchOf(body),
        skip: body.skip ?? 0,
        once: body.once ?? false,
        enabled: body.enabled ?? true,
        ...(body.smmu !== undefined && { smmu: body.smmu }),
      }
      return reply.code(201).send(show(await manager.addBreakpoint(spec)) as never)
    },
  )

  api.patch(
    '/breakpoints/:id',
    {
      schema: {
        tags,
        summary: 'Switch a breakpoint on or off',
        params: Id,
        body: Type.Object({ enabled: Type.Boolean() }, { additionalProperties: false }),
        response: { 204: Type.Null(), ...problems(404) },
      },
    },
    async (request, reply) => {
      await manager.enableBreakpoint(request.params.id, request.body.enabled)
      return reply.code(204).send(null)
    },
  )

  api.delete(
    '/breakpoints/:id',
    { schema: { tags, summary: 'Remove a breakpoint', params: Id, response: { 204: Type.Null(), ...problems(404) } } },
    async (request, reply) => {
      await manager.removeBreakpoint(request.params.id)
      return reply.code(204).send(null)
    },
  )

  api.post(
    '/break',
    {
      schema: {
        tags,
        summary: 'Hold the next trap, whatever it is',
        body: Type.Object({ on: Type.Optional(Type.Boolean({ default: true })) }, { additionalProperties: false }),
        response: { 204: Type.Null(), ...problems(409) },
      },
    },
    async (request, reply) => {
      await manager.breakNext(request.body.on ?? true)
      return reply.code(204).send(null)
    },
  )

  api.get(
    '/held',
    {
      schema: {
        tags,
        summary: 'The trap that is held',
        response: { 200: Type.Union([Type.Ref('HeldTrap'), Type.Null()]), ...problems() },
      },
    },
    async () => manager.status().held as never,
  )

  api.post(
    '/held/release',
    {
      schema: {
        tags,
        summary: 'Let the held trap go on',
        body: Type.Object(
          {
            action: Type.Enum(['continue', 'step', 'drop', 'abort'], {
              description:
                'step: hold the next trap as well. drop: nobody decides it; a write is lost, a read answers 0. abort: an external abort.',
            }),
            value: Type.Optional(NumberText('continue and step: written instead, or the answer to the read')),
          },
          { additionalProperties: false },
        ),
        response: { 204: Type.Null(), ...problems(409, 422) },
      },
    },
    async (request, reply) => {
      const { action, value } = request.body
      await manager.release({ action, ...(value !== undefined && { value: halves(parseBig(value)) }) })
      return reply.code(204).send(null)
    },
  )
}
