// SPDX-License-Identifier: Apache-2.0
/** Breakpoints, and the trap that is held. */
import { Type } from 'typebox'
import { Nullable, NumberText, named, Ref, type View } from './fields.ts'
import { HeldSchema } from './lifecycle.ts'
import type { Routes } from './route.ts'

const Name = (description: string) => Type.String({ minLength: 1, maxLength: 60, description })

export const BreakpointBodySchema = named(
  'BreakpointBody',
  Type.Object(
    {
      on: Type.Enum(['register', 'command', 'stream', 'address', 'warning', 'event', 'function']),
      register: Type.Optional(Name('on register: name or 0x offset; absent: any')),
      access: Type.Optional(Type.Enum(['read', 'write', 'any'], { description: 'on register; default any' })),
      value: Type.Optional(NumberText('on register: only this value')),
      mask: Type.Optional(NumberText('on register: bits of the value that count')),
      command: Type.Optional(Name('on command: name, e.g. CFGI_STE; absent: any')),
      sid: Type.Optional(Type.Integer({ minimum: 0, maximum: 0xffff_ffff, description: 'on stream' })),
      base: Type.Optional(NumberText('on address: start of the range')),
      size: Type.Optional(
        Type.Integer({ minimum: 1, maximum: 2 ** 52, description: 'on address: bytes; default 4096' }),
      ),
      warning: Type.Optional(Name('on warning: code; absent: any unexpected one')),
      event: Type.Optional(Name('on event: name, e.g. F_TRANSLATION; absent: any')),
      function: Type.Optional(
        Name('on function: a kernel function that makes the trap, or that calls who does, e.g. arm_smmu_attach_dev'),
      ),
      smmu: Type.Optional(Type.Integer({ minimum: 0, maximum: 255 })),
      skip: Type.Optional(Type.Integer({ minimum: 0, maximum: 1_000_000_000, description: 'matches to pass over' })),
      once: Type.Optional(Type.Boolean({ description: 'removed by its first hit' })),
      enabled: Type.Optional(Type.Boolean()),
    },
    { additionalProperties: false },
  ),
)
export type BreakpointBody = View<typeof BreakpointBodySchema>

export const BreakpointSchema = named(
  'Breakpoint',
  Type.Object({
    id: Type.Integer(),
    on: Type.String(),
    text: Type.String({ description: 'what it waits for' }),
    smmu: Nullable(Type.Integer()),
    skip: Type.Integer(),
    once: Type.Boolean(),
    enabled: Type.Boolean(),
    matches: Type.Integer(),
  }),
)
export type BreakpointView = View<typeof BreakpointSchema>

const Id = Type.Object({ id: Type.Integer({ minimum: 1 }) })

export const breakpoints = {
  'GET /breakpoints': {
    id: 'listBreakpoints',
    tag: 'breakpoints',
    summary: 'All breakpoints',
    answer: Type.Array(Ref(BreakpointSchema)),
  },
  'POST /breakpoints': {
    id: 'createBreakpoint',
    tag: 'breakpoints',
    summary: 'Set a breakpoint',
    description:
      'A hit holds the trap and with it the vCPU, for as long as you want. The clock of the guest goes on: its timeouts are yours to mind.',
    body: Ref(BreakpointBodySchema),
    answer: Ref(BreakpointSchema),
    status: 201,
    problems: [409, 422],
  },
  'PATCH /breakpoints/:id': {
    id: 'changeBreakpoint',
    tag: 'breakpoints',
    summary: 'Switch a breakpoint on or off',
    params: Id,
    body: Type.Object({ enabled: Type.Boolean() }, { additionalProperties: false }),
    problems: [404],
  },
  'DELETE /breakpoints/:id': {
    id: 'deleteBreakpoint',
    tag: 'breakpoints',
    summary: 'Remove a breakpoint',
    params: Id,
    problems: [404],
  },
  'POST /break': {
    id: 'stopAtNextTrap',
    tag: 'breakpoints',
    summary: 'Hold the next trap, whatever it is',
    body: Type.Object({ on: Type.Optional(Type.Boolean({ default: true })) }, { additionalProperties: false }),
    problems: [409],
  },
  'GET /held': {
    id: 'getHeldTrap',
    tag: 'breakpoints',
    summary: 'The trap that is held',
    answer: Nullable(Ref(HeldSchema)),
  },
  'POST /held/release': {
    id: 'releaseHeldTrap',
    tag: 'breakpoints',
    summary: 'Release the held trap',
    body: Type.Object(
      {
        action: Type.Enum(['continue', 'step', 'drop', 'abort'], {
          description:
            'step: hold the next trap as well. drop: the policy does not see it; a write is lost, a read returns 0. abort: an external abort.',
        }),
        value: Type.Optional(NumberText('continue and step: written instead, or the answer to the read')),
      },
      { additionalProperties: false },
    ),
    problems: [409, 422],
  },
} as const satisfies Routes
