// SPDX-License-Identifier: Apache-2.0
import type { ChildView, TrapDetail } from '../../api/schemas/trace.ts'
import { call } from './api.ts'
import { Bytes } from './bytes.tsx'
import { BY_QEMU, counted, micros, seconds, wallClock } from './format.ts'
import { useLoaded } from './hooks.ts'
import { go } from './store.ts'
import { Button, Cited, Empty, Load, Panel, Scroll, Tag, type Tone } from './ui.tsx'
import { EntryPair } from './views/entries.tsx'

/** By what became of a command. */
export const VERDICT_TONES: Readonly<Record<string, Tone>> = {
  kept: 'host',
  rewritten: 'warn',
  dropped: 'bad',
  own: 'hyp',
}

/** More commands than this show their bytes when asked. */
const FEW = 4

/** Head and meaning of each column of the list. */
export const COLUMNS: readonly (readonly [head: string, meaning: string])[] = [
  ['#', 'number of the trap in its machine'],
  ['Time', "the guest's virtual clock in seconds, or the server's clock: the switch is at the foot of the navigation"],
  ['Δ', 'guest time since the line above'],
  ['C', 'vCPU that made the access'],
  ['A', 'R a read, W a write'],
  ['Register', 'of the SMMU, as IHI 0070 names it'],
  ['Value', 'written by the host, or answered to it'],
  ['Decoded', 'fields of the value; for a write of CMDQ_PROD the commands it handed over, by what became of them'],
  ['Kernel function', 'in which the access was made, from the symbols of the kernel'],
  ['µs', `the server's time; or ${BY_QEMU}, without asking, as it had been told to`],
]

export function TrapDetailPanel({ id, select }: { id: number | undefined; select: (id: number) => void }) {
  const loaded = useLoaded(async () => (id === undefined ? null : call('GET /traps/:id', { params: { id } })), 0, [id])
  return (
    <Panel title={id === undefined ? 'Trap' : <TrapTitle detail={loaded.data ?? undefined} />} class="detail" flush>
      {id === undefined ? (
        <Scroll label="Columns" class="pad">
          <Empty title="Choose a trap">
            Click a row, or walk with <kbd>j</kbd> and <kbd>k</kbd>. Here is what the hypervisor did for it.
          </Empty>
          <dl class="columns">
            {COLUMNS.map(([name, meaning]) => (
              <div key={name}>
                <dt>{name}</dt>
                <dd>{meaning}</dd>
              </div>
            ))}
          </dl>
        </Scroll>
      ) : (
        <Scroll label="Trap" class="pad">
          <Load from={loaded}>{detail => detail && <Group detail={detail} select={select} />}</Load>
        </Scroll>
      )}
    </Panel>
  )
}

const TrapTitle = ({ detail }: { detail: TrapDetail | undefined }) => (
  <>{detail ? (detail.row.kind === 'trap' ? `Trap ${detail.row.seq}` : detail.row.kind) : 'Trap'}</>
)

/** One trap and all that was done for it. */
function Group({ detail, select }: { detail: TrapDetail; select: (id: number) => void }) {
  const { row, children, streams, previous, following } = detail
  const commands = children.filter(({ kind, bytes }) => kind === 'command' && bytes !== undefined).length
  return (
    <>
      <div class="trap-head">
        <div class="big mono">
          <span class={row.write ? 'access-w' : 'access-r'}>
            {row.kind === 'trap' ? (row.write ? 'write' : 'read') : ''}
          </span>{' '}
          {row.register} {row.value}
        </div>
        {detail.bytes !== undefined && <Bytes hex={detail.bytes} bits={detail.bits} />}
        <dl class="facts tight">
          <div>
            <dt>Server time</dt>
            <dd>{row.kind === 'trap' && row.us === 0 ? BY_QEMU : micros(row.us)}</dd>
          </div>
          {row.time !== undefined && (
            <div>
              <dt>Guest time</dt>
              <dd>{seconds(row.time)} s</dd>
            </div>
          )}
          {row.at !== undefined && (
            <div>
              <dt>Clock</dt>
              <dd>{wallClock(row.at)}</dd>
            </div>
          )}
          {row.pc && (
            <div class="whole">
              <dt>Kernel function</dt>
              <dd class="mono">{row.where ? `${row.where}, ${row.pc}` : row.pc}</dd>
            </div>
          )}
          {row.size !== undefined && row.smmu !== undefined && (
            <div>
              <dt>Width</dt>
              <dd>
                {row.size * 8} bits, SMMU {row.smmu}, CPU {row.cpu}
              </dd>
            </div>
          )}
        </dl>
        <div class="beside">
          {previous && (
            <Button local class="small" onClick={() => select(previous.id)}>
              ← {previous.write ? 'W' : 'R'} {previous.value} before
            </Button>
          )}
          {following && (
            <Button local class="small" onClick={() => select(following.id)}>
              {following.write ? 'W' : 'R'} {following.value} after →
            </Button>
          )}
          {streams.map(sid => (
            <Button local key={sid} class="small" onClick={() => go('streams', { sid })}>
              stream 0x{sid.toString(16)}
            </Button>
          ))}
        </div>
      </div>
      {children.length === 0 ? (
        <Empty title="Decided without touching hardware or memory" />
      ) : (
        <ol class="children">
          {children.map((child, i) => (
            <li key={i} class={`child ${child.kind}`}>
              <Tag tone={childTone(child)}>{childName(child)}</Tag>
              <span class="mono">
                <Cited text={child.text} />
              </span>
              {child.us !== undefined && <span class="num muted">{micros(child.us)}</span>}
              {child.bytes !== undefined && (
                <details class="full" open={child.kind === 'command' && commands <= FEW}>
                  <summary>{counted(child.bytes.length / 2, 'byte')}</summary>
                  <Bytes hex={child.bytes} bits={child.bits} />
                </details>
              )}
              {(child.host || child.shadow) && (
                <div class="full">
                  <EntryPair host={child.host ?? null} shadow={child.shadow ?? null} onlyDifferent />
                </div>
              )}
            </li>
          ))}
        </ol>
      )}
    </>
  )
}

const NAMES: Readonly<Record<string, string>> = { hardware: 'hw', memory: 'mem', command: 'cmd', warning: 'warn' }

function childName({ kind, verdict }: ChildView): string {
  return kind === 'command' && verdict !== undefined && verdict !== 'kept' ? verdict : (NAMES[kind] ?? kind)
}

function childTone({ kind, verdict }: ChildView): Tone {
  switch (kind) {
    case 'command':
      return VERDICT_TONES[verdict ?? 'kept'] ?? 'host'
    case 'hardware':
      return 'hw'
    case 'stream':
    case 'pages':
    case 'guard':
      return 'hyp'
    case 'warning':
      return 'warn'
    case 'fault':
    case 'breakpoint':
      return 'bad'
    default:
      return 'plain'
  }
}
