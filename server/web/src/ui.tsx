// SPDX-License-Identifier: Apache-2.0
import { signal } from '@preact/signals'
import type { ComponentChildren, JSX } from 'preact'
import { useLayoutEffect, useRef } from 'preact/hooks'
import type { ApiError } from './api.ts'
import { seconds, wallClock } from './format.ts'
import type { Loaded } from './hooks.ts'
import { clockMode, reachable } from './store.ts'

interface Toast {
  readonly id: number
  readonly text: string
  readonly bad: boolean
}
export const toasts = signal<readonly Toast[]>([])
let nextToast = 1

export function toast(text: string, bad = false): void {
  const id = nextToast++
  toasts.value = [...toasts.value.slice(-3), { id, text, bad }]
  setTimeout(
    () => {
      toasts.value = toasts.value.filter(t => t.id !== id)
    },
    bad ? 8_000 : 3_500,
  )
}

/** Does it, and says so when it fails. */
export async function attempt(action: () => Promise<unknown>, done?: string): Promise<boolean> {
  try {
    await action()
    if (done !== undefined) toast(done)
    return true
  } catch (error) {
    toast((error as ApiError).message, true)
    return false
  }
}

export function Toasts() {
  return (
    <div class="toasts" role="status" aria-live="polite">
      {toasts.value.map(({ id, text, bad }) => (
        <div key={id} class={`toast ${bad ? 'bad' : ''}`}>
          {text}
        </div>
      ))}
    </div>
  )
}

export function Panel(props: {
  title: ComponentChildren
  side?: ComponentChildren
  children: ComponentChildren
  class?: string
  /** The content touches the edges. */
  flush?: boolean
}) {
  return (
    <section class={`panel ${props.class ?? ''}`}>
      <header>
        <h2>{props.title}</h2>
        {props.side !== undefined && <div class="side">{props.side}</div>}
      </header>
      <div class={props.flush ? 'body flush' : 'body'}>{props.children}</div>
    </section>
  )
}

/** The document that rules of hyp warnings are in: a file of the repository, shown by the view `reference`. */
export const REFERENCE = 'server/hypervisor/README.md'

/** Where a warning's section can be read here; undefined: in another document. */
export function sectionHref(section: string): string | undefined {
  const [document, anchor] = section.split('#')
  return document === REFERENCE && anchor !== undefined ? `#/reference?at=${anchor}` : undefined
}

const CITED = new RegExp(`\\b(${REFERENCE.replaceAll('.', '\\.')}#[\\w-]+)`)

/** Text in which sections of the reference are links. */
export function Cited({ text }: { text: string }) {
  return text.split(CITED).map((part, i) => {
    const href = i % 2 === 1 ? sectionHref(part) : undefined
    return href === undefined ? (
      part
    ) : (
      <a key={i} href={href} title={part}>
        section {/#(\d+)/.exec(part)?.[1]}
      </a>
    )
  })
}

/** What may be larger than its place: it scrolls, by keyboard too. */
export function Scroll({ label, class: extra, ...rest }: JSX.IntrinsicElements['div'] & { label: string }) {
  // biome-ignore lint/a11y/noNoninteractiveTabindex: arrow keys scroll what has the focus
  // biome-ignore lint/a11y/useSemanticElements: a fieldset does not scroll
  return <div {...rest} class={`scroll ${extra ?? ''}`} role="group" aria-label={label} tabIndex={0} />
}

/** A moment by the clock that the page shows; without guest time, by the server's. @param at of the server's clock, ISO 8601 */
export function When({ at, time }: { at: string; time?: number | undefined }) {
  const wall = wallClock(Date.parse(at))
  const guest = time === undefined ? undefined : `${seconds(time)} s`
  return (
    <time
      dateTime={at}
      title={guest === undefined ? 'of the server’s clock' : `${guest} of the guest, ${wall} of the server`}
    >
      {clockMode.value === 'guest' && guest !== undefined ? guest : wall}
    </time>
  )
}

export type Tone = 'plain' | 'host' | 'hyp' | 'hw' | 'vm' | 'shared' | 'ok' | 'warn' | 'bad'

const MILD = new Set(['unaffected', 'recovered'])
const SEVERE = new Set(['guest-oops', 'guest-panic', 'guest-hung', 'isolation-violation', 'harness-error'])
/** Of the verdict on a session. */
export const verdictTone = (verdict: string): Tone => (MILD.has(verdict) ? 'ok' : SEVERE.has(verdict) ? 'bad' : 'warn')

export function Tag({ tone = 'plain', children, title }: { tone?: Tone; children: ComponentChildren; title?: string }) {
  return (
    <span class={`tag ${tone}`} title={title}>
      {children}
    </span>
  )
}

/** A button that asks the server for something, and is dead without one; but for those that are `local` to the page. */
export function Button(
  props: JSX.IntrinsicElements['button'] & { tone?: 'primary' | 'danger'; keys?: string; local?: boolean },
) {
  const { tone, keys, local = false, disabled, children, class: extra, ...rest } = props
  return (
    <button
      type="button"
      {...rest}
      disabled={disabled === true || !(local || reachable.value)}
      class={`button ${tone ?? ''} ${extra ?? ''}`}
    >
      {children}
      {keys && <kbd>{keys}</kbd>}
    </button>
  )
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <p class="empty-title">{title}</p>
      {children && <p>{children}</p>}
    </div>
  )
}

export function Skeleton({ rows = 6 }: { rows?: number }) {
  return (
    <div class="skeleton" role="status" aria-label="loading">
      {Array.from({ length: rows }, (_, i) => (
        <i key={i} />
      ))}
    </div>
  )
}

/** Loading, error or what there is. Old data stays visible under an error. */
export function Load<T>({ from, children }: { from: Loaded<T>; children: (data: T) => ComponentChildren }) {
  const { data, error, loading } = from
  if (data === undefined) {
    if (error !== undefined) return <Failure error={error} retry={from.reload} />
    return loading ? <Skeleton /> : null
  }
  return (
    <>
      {error !== undefined && <Failure error={error} retry={from.reload} />}
      {children(data)}
    </>
  )
}

export function Failure({ error, retry }: { error: ApiError; retry?: () => void }) {
  return (
    <div class="failure" role="alert">
      <span>{error.message}</span>
      {retry && (
        <Button onClick={retry} class="small">
          Try again
        </Button>
      )}
    </div>
  )
}

export function Dialog(props: { title: string; open: boolean; close: () => void; children: ComponentChildren }) {
  const ref = useRef<HTMLDialogElement>(null)
  // Not after the next paint: one that is closed and opened again at once would hear of its closing before it is open.
  useLayoutEffect(() => {
    if (props.open) ref.current?.showModal()
    else ref.current?.close()
  }, [props.open])
  return (
    <dialog
      ref={ref}
      // This is told later, when it may be open once more.
      onClose={() => {
        if (ref.current?.open !== true) props.close()
      }}
      aria-label={props.title}
    >
      {props.open && (
        <>
          <div class="dialog-head">
            <h2>{props.title}</h2>
            <button type="button" class="icon" aria-label="Close" onClick={props.close}>
              ✕
            </button>
          </div>
          {props.children}
        </>
      )}
    </dialog>
  )
}

export function Field({ label, hint, children }: { label: string; hint?: string; children: ComponentChildren }) {
  return (
    // biome-ignore lint/a11y/noLabelWithoutControl: the control is a child
    <label class="field">
      <span>{label}</span>
      {children}
      {hint && <small>{hint}</small>}
    </label>
  )
}

/** A few exclusive choices. */
export function Choice<T extends string>(props: {
  label: string
  value: T
  options: readonly (readonly [T, string])[]
  change: (value: T) => void
}) {
  return (
    <fieldset class="choice" aria-label={props.label}>
      {props.options.map(([value, text]) => (
        <label key={value}>
          <input type="radio" name={props.label} checked={value === props.value} onChange={() => props.change(value)} />
          {text}
        </label>
      ))}
    </fieldset>
  )
}
