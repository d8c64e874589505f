// SPDX-License-Identifier: Apache-2.0
import { useEffect, useRef, useState } from 'preact/hooks'
import { get } from '../api.ts'
import { count } from '../format.ts'
import { useLoaded } from '../hooks.ts'
import { inspectable, smmu } from '../store.ts'
import type { Queues as Data, Queue, RegisterRow } from '../types.ts'
import { Choice, Empty, Load, Panel, Tag, type Tone } from '../ui.tsx'
import { NoMachine } from './none.tsx'

export function Queues() {
  const [tab, setTab] = useState<'queues' | 'registers'>('queues')
  if (!inspectable.value) return <NoMachine what="Queues and registers" />
  return (
    <div class="view column">
      <div class="toolbar">
        <Choice
          label="What to show"
          value={tab}
          options={[
            ['queues', 'Queues'],
            ['registers', 'Registers'],
          ]}
          change={setTab}
        />
        <span class="muted">
          {tab === 'queues' ? 'Read from memory once a second' : 'The host’s view and the hardware’s, side by side'}
        </span>
      </div>
      {tab === 'queues' ? <ThreeQueues /> : <Registers />}
    </div>
  )
}

function ThreeQueues() {
  const loaded = useLoaded<Data>(() => get(`/smmus/${smmu.value}/queues`), 1_000, [smmu.value])
  return (
    <Load from={loaded}>
      {({ host, shadow, events }) => (
        <div class="queues">
          <QueuePanel title="Command queue of the host" tone="host" queue={host} />
          {shadow ? (
            <QueuePanel title="Shadow command queue" tone="hyp" queue={shadow} />
          ) : (
            <Panel title="Shadow command queue">
              <Empty title="There is none">The hardware reads the host's queue itself under this policy.</Empty>
            </Panel>
          )}
          <QueuePanel title="Event queue" tone="bad" queue={events} />
        </div>
      )}
    </Load>
  )
}

const VERDICTS: Readonly<Record<string, Tone>> = { kept: 'ok', rewritten: 'warn', dropped: 'bad', own: 'hyp' }

function QueuePanel({ title, tone, queue }: { title: string; tone: Tone; queue: Queue }) {
  const end = useRef<HTMLDivElement>(null)
  useEffect(() => {
    const box = end.current
    if (box) box.scrollTop = box.scrollHeight
  }, [queue.prod, queue.prodWrap])
  return (
    <Panel
      title={title}
      flush
      side={<Tag tone={queue.enabled ? tone : 'plain'}>{queue.enabled ? 'enabled' : 'disabled'}</Tag>}
    >
      <Gauge queue={queue} tone={tone} />
      {queue.shown.length === 0 ? (
        <Empty title="Empty">Nothing has been put into it.</Empty>
      ) : (
        <div class="scroll" ref={end}>
          <table class="data queue">
            <tbody>
              {queue.shown.map(({ index, name, text, words, verdict }) => (
                <tr key={`${queue.prodWrap}-${index}`} class={isPending(queue, index) ? 'pending' : ''}>
                  <td class="num muted">{index}</td>
                  <td title={words.join(' ')}>
                    <b>{name}</b> <span class="muted">{text.startsWith(name) ? text.slice(name.length) : text}</span>
                  </td>
                  <td class="num">{verdict && <Tag tone={VERDICTS[verdict] ?? 'plain'}>{verdict}</Tag>}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </Panel>
  )
}

/** Between CONS and PROD. */
function isPending({ pending, prod, entries }: Queue, index: number): boolean {
  return pending > 0 && (prod - index - 1 + entries) % entries < pending
}

/** The ring of a queue, laid out flat: PROD above, CONS below. */
function Gauge({ queue, tone }: { queue: Queue; tone: Tone }) {
  const at = (index: number) => `${(index / queue.entries) * 100}%`
  return (
    <div class="gauge">
      <dl>
        <div>
          <dt>PROD</dt>
          <dd>
            {count(queue.prod)}
            <sup title="wrap bit">{queue.prodWrap}</sup>
          </dd>
        </div>
        <div>
          <dt>CONS</dt>
          <dd>
            {count(queue.cons)}
            <sup title="wrap bit">{queue.consWrap}</sup>
          </dd>
        </div>
        <div>
          <dt>Pending</dt>
          <dd>{count(queue.pending)}</dd>
        </div>
        <div>
          <dt>Entries</dt>
          <dd>{count(queue.entries)}</dd>
        </div>
        <div>
          <dt>Base</dt>
          <dd>{queue.base}</dd>
        </div>
        {queue.error > 0 && (
          <div class="bad">
            <dt>ERR</dt>
            <dd>{queue.error}</dd>
          </div>
        )}
      </dl>
      <div class={`ring ${tone}`} aria-hidden="true">
        <i class="prod" style={{ left: at(queue.prod) }} />
        <i class="cons" style={{ left: at(queue.cons) }} />
      </div>
    </div>
  )
}

function Registers() {
  const [only, setOnly] = useState(false)
  const loaded = useLoaded<RegisterRow[]>(() => get(`/smmus/${smmu.value}/registers`), 3_000, [smmu.value])
  return (
    <Panel
      title="Registers"
      flush
      class="grow"
      side={
        <label class="check">
          <input type="checkbox" checked={only} onChange={e => setOnly(e.currentTarget.checked)} />
          only those that differ
        </label>
      }
    >
      <div class="scroll">
        <Load from={loaded}>
          {rows => (
            <table class="data">
              <thead>
                <tr>
                  <th>Register</th>
                  <th class="host-text">Host sees</th>
                  <th />
                  <th class="hw-text">Hardware has</th>
                  <th />
                </tr>
              </thead>
              <tbody>
                {rows
                  .filter(row => !only || row.host.value !== row.hardware.value)
                  .map(row => {
                    const differs = row.host.value !== row.hardware.value
                    return (
                      <tr key={row.name} class={differs ? 'differs' : ''}>
                        <th scope="row" title={`${row.offset}: ${row.meaning}`}>
                          {row.name}
                        </th>
                        <td class="mono">{row.host.value ?? '–'}</td>
                        <td class="muted decode">{row.host.text === row.host.value ? '' : row.host.text}</td>
                        <td class="mono">{row.hardware.value ?? '–'}</td>
                        <td class="muted decode">
                          {differs && row.hardware.text !== row.hardware.value ? row.hardware.text : ''}
                        </td>
                      </tr>
                    )
                  })}
              </tbody>
            </table>
          )}
        </Load>
      </div>
    </Panel>
  )
}
