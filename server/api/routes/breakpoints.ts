// SPDX-License-Identifier: Apache-2.0
import { DESCRIPTIONS } from '../../policy/builtin.ts'
import { type WarningTable, warningByCode } from '../../policy/warnings.ts'
import { hex, hex64 } from '../../smmu/bits.ts'
import { opcodeName } from '../../smmu/commands.ts'
import { eventName } from '../../smmu/events.ts'
import { commandNumber, eventNumber, registerOffset } from '../../smmu/names.ts'
import { registerName } from '../../smmu/registers.ts'
import { type Breakpoint, type BreakpointMatch, MAX_BREAKPOINTS } from '../../trap/breakpoints.ts'
import { halves, parseBig } from '../hex.ts'
import type { MachineManager } from '../machineManager.ts'
import { Problem } from '../problem.ts'
import type { BreakpointBody, breakpoints } from '../schemas/breakpoints.ts'
import type { Handlers } from '../schemas/route.ts'

function known<T>(kind: string, name: string, found: T | undefined): T {
  if (found === undefined) throw new Problem(422, `no ${kind} ${name}`)
  return found
}

/** Of the machine's policy, or of any that the next machine may have: breakpoints stay. */
function warningCode(code: string, table: WarningTable): string | undefined {
  const tables = [table, ...[...DESCRIPTIONS.values()].map(({ warnings }) => warnings)]
  return tables.map(warnings => warningByCode(warnings, code)?.code).find(found => found !== undefined)
}

function matchOf(body: BreakpointBody, warnings: WarningTable): BreakpointMatch {
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
        : { on: 'warning', warning: known('warning', warning, warningCode(warning, warnings)) }
    }
    case 'event': {
      const { event } = body
      return event === undefined ? { on: 'event' } : { on: 'event', event: known('event', event, eventNumber(event)) }
    }
    case 'function':
      if (body.function === undefined) throw new Problem(422, 'on function: function is needed')
      return { on: 'function', name: body.function }
  }
}

export function describeMatch(match: BreakpointMatch): string {
  switch (match.on) {
    case 'register': {
      const name = match.offset === undefined ? 'any register' : registerName(match.offset)
      const access = match.access === 'any' ? 'access to' : `${match.access} of`
      const mask = match.mask ? ` & ${hex64(...match.mask)}` : ''
      return `${access} ${name}${match.want ? ` with value${mask} = ${hex64(...match.want)}` : ''}`
    }
    case 'command':
      return match.opcode === undefined ? 'any command' : `command ${opcodeName(match.opcode)}`
    case 'stream':
      return `StreamID ${hex(match.sid)} in a command or an event`
    case 'address':
      return `address ${hex(match.base)} to ${hex(match.base + match.size)} in a command or an event`
    case 'warning':
      return match.warning === undefined ? 'any unexpected hyp warning' : `hyp warning ${match.warning}`
    case 'event':
      return match.event === undefined ? 'any event' : `event ${eventName(match.event)}`
    case 'function':
      return `trap in kernel function ${match.name}, or in one that it calls`
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

export function breakpointHandlers(manager: MachineManager): Handlers<typeof breakpoints> {
  return {
    'GET /breakpoints': async () => (await manager.breakpoints.list()).map(show),
    'POST /breakpoints': async ({ body }) => {
      if ((await manager.breakpoints.list()).length >= MAX_BREAKPOINTS) {
        throw new Problem(409, `there are ${MAX_BREAKPOINTS} breakpoints already`)
      }
      const added = await manager.breakpoints.add({
        match: matchOf(body, manager.warningTable),
        skip: body.skip ?? 0,
        once: body.once ?? false,
        enabled: body.enabled ?? true,
        ...(body.smmu !== undefined && { smmu: body.smmu }),
      })
      return show(added)
    },
    'PATCH /breakpoints/:id': ({ params, body }) => manager.breakpoints.enable(params.id, body.enabled),
    'DELETE /breakpoints/:id': ({ params }) => manager.breakpoints.remove(params.id),
    'POST /break': ({ body }) => manager.breakpoints.breakNext(body.on ?? true),
    'GET /held': () => manager.status().held,
    'POST /held/release': ({ body: { action, value } }) =>
      manager.breakpoints.release({ action, ...(value !== undefined && { value: halves(parseBig(value)) }) }),
  }
}
